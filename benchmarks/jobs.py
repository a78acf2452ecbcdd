"""Running the package's jobs as their users do: as programs, on the command line."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifru_dist.pipelines.unlearn import RETRAINING_DUE

REPOSITORY = Path(__file__).resolve().parent.parent


def run_job(name: str, *arguments: object, output: Path) -> Any:
    """Run jobs/<name>.py here and return its report.json, which also says where retraining is due: that is no failure.

    Raises:
        SystemExit: the job failed; it has said why.
    """
    command = [sys.executable, f"jobs/{name}.py", *map(str, arguments), "--output", str(output)]
    _run(command, os.environ, (0, RETRAINING_DUE))
    return read_report(output)


def submit_job(name: str, *arguments: object, output: Path, environment: Mapping[str, str]) -> Any:
    """Run jobs/<name>.py on the cluster that the environment names, with ``ray job submit``; returns report.json.

    Raises:
        SystemExit: the job failed; it has said why.
    """
    entry = ["python", f"jobs/{name}.py", *map(str, arguments), "--output", str(output)]
    ray = str(Path(sys.executable).parent / "ray")
    _run([ray, "job", "submit", "--working-dir", ".", "--", *entry], {**os.environ, **environment})
    return read_report(output)


def read_report(output: Path) -> Any:
    """A job's report.json."""
    return json.loads((output / "report.json").read_text())


def _run(command: Sequence[str], environment: Mapping[str, str], good: Collection[int] = (0,)) -> None:
    """Run a command in the repository, showing it and what it prints; its status has to be a good one."""
    print(f"\n$ {shlex.join(_shown(part) for part in command)}", flush=True)
    status = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
    if status not in good:
        raise SystemExit(f"the command above ended with status {status}")


def _shown(part: str) -> str:
    """A command's part as a user would type it."""
    path = Path(part)
    return path.name if path.is_absolute() and path.parent == Path(sys.executable).parent else part
