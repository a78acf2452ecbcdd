"""What is kept of the reports of the jobs in a dated file, and the command that made it."""

import json
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any

_OF_ONE_MACHINE = ("config", "history", "not_applied", "workspace", "quarantine_file")


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """A report without paths and training curves of one machine, which are of no use to others."""
    return {key: value for key, value in report.items() if key not in _OF_ONE_MACHINE}


def command_of(module: str) -> str:
    """The command line of this process, as a user would type it."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def keep(output: Path, module: str, results: dict[str, Any]) -> None:
    """Write a benchmark's results into a folder, as a file of the day with the command that made them."""
    output.mkdir(parents=True, exist_ok=True)
    record = {"date": date.today().isoformat(), "command": command_of(f"benchmarks.{module}"), **results}
    path = output / f"{module.replace('_', '-')}-{record['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"kept in {path}")
