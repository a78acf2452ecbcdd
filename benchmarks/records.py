"""What is kept of the reports of the jobs in a dated file, and the command that made it."""

import shlex
import sys
from typing import Any

_OF_ONE_MACHINE = ("config", "history", "not_applied", "workspace", "quarantine_file")


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """A report without paths and training curves of one machine, which are of no use to others."""
    return {key: value for key, value in report.items() if key not in _OF_ONE_MACHINE}


def command_of(module: str) -> str:
    """The command line of this process, as a user would type it."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])
