"""What a batch costs with all that comes before it: a job of its own, from the command to the committed version."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ifru_dist.errors import GangError
from ifru_dist.evaluation.report import REPORT_NAME
from ifru_dist.pipelines.erasing import EraseFlags
from ifru_dist.pipelines.requests import COLUMNS, Request
from ifru_dist.pipelines.unlearn import RETRAINING_DUE
from ifru_dist.workspace.version import Version

_JOB = """
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
run_command(UnlearnConfig, unlearn)
"""
"""What jobs/unlearn.py does, wherever that lies."""
_PHASES = ("startup", "route", "subgraph", "gradient", "solve", "verify", "commit")


@dataclass(frozen=True, kw_only=True)
class FreshJob:
    """One run of the unlearn job, as somebody types it."""

    committed_s: float
    """From the command to the committed version: imports, Ray, workers, loading, and the batch."""
    ended_s: float
    """Until the process had ended."""
    phases: dict[str, float]
    """Seconds as the job reports them; ``startup`` has no imports in it."""


def run_fresh_job(flags: EraseFlags, copy: Version, batch: Sequence[Request]) -> FreshJob:
    """Erase a batch from a copy of a workspace, which is left changed, by a process of its own.

    Args:
        flags: how it is erased; its Ray is the one that RAY_ADDRESS names, or one that the job starts.
        copy: the version to begin with; request file and report go beside its workspace.
        batch: what to erase.

    Raises:
        GangError: the job failed.
    """
    place, number = copy.workspace.root.parent, copy.manifest.version
    requests, report = place / "requests.parquet", place / "fresh"
    _write_requests(requests, batch)
    job = ("--workspace", str(copy.workspace.root), "--requests", str(requests), "--output", str(report))
    started = time.time()
    _run([sys.executable, "-P", "-c", _JOB, *job, *options_of(flags)])
    ended_s = time.time() - started
    committed = copy.workspace.manifest_path(number + 1).stat().st_ctime  # the name is linked to it when it is whole
    seconds = json.loads((report / REPORT_NAME).read_text())["seconds"]
    return FreshJob(
        committed_s=committed - started, ended_s=ended_s, phases={phase: seconds[phase] for phase in _PHASES}
    )


def options_of(flags: EraseFlags) -> list[str]:
    """The options of jobs/unlearn.py that give these flags."""
    given = {field.name: getattr(flags, field.name) for field in fields(flags)}
    defaults = {field.name: field.default for field in fields(flags)}
    options = []
    for name, value in given.items():
        if value != defaults[name]:
            options += [f"--{name.replace('_', '-')}", str(value)]
    return options


def _write_requests(path: Path, batch: Sequence[Request]) -> None:
    """A request file as users write it."""
    columns = {name: pa.array([getattr(request, name) for request in batch], pa.string()) for name in COLUMNS}
    pq.write_table(pa.table(columns), path)


def _run(command: Sequence[str]) -> None:
    """Run a job quietly; one that is left before its end is told to end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode not in (0, RETRAINING_DUE):
        last = errors.strip().splitlines()[-1:] or ["it said nothing"]
        raise GangError(
            f"a job of its own ended with status {process.returncode}: {last[0]}: mend that, or leave such jobs out: "
            "--no-fresh-jobs"
        )
