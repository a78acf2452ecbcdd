"""jobs/unlearn.py --watch on a Ray of its own, of which a process is killed or stopped at a random moment.

The coordinator, a worker, Ray's head (its control store) or its node process gets SIGKILL, or a worker SIGSTOP. The job
may finish by itself (a gang that lost a worker is rebuilt) or fail; the next run has to end as an undisturbed one.

    python -m benchmarks.kill_processes --points 20 --output benchmarks/results
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from benchmarks.fault_scenario import MAX_BATCH, Ending, Scenario, doubled, ending_of, make_scenario
from benchmarks.jobs import REPOSITORY
from benchmarks.records import keep
from cluster.processes import Process, kill_processes, processes_of, tagged_environment

TARGETS: dict[str, tuple[str, signal.Signals]] = {
    "coordinator killed": ("jobs/unlearn.py", signal.SIGKILL),
    "worker killed": ("ray::_ShardActor", signal.SIGKILL),
    "worker stopped": ("ray::_ShardActor", signal.SIGSTOP),
    "Ray's head killed": ("gcs_server", signal.SIGKILL),
    "Ray's node killed": ("raylet/raylet", signal.SIGKILL),
}
"""What the command line of the process holds, and the signal."""
_TIMEOUT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to try."""

    points: Annotated[int, Field(ge=1)] = 20
    """Runs in which something is killed."""
    seed: int = 1
    """Of what and when."""
    output: Path | None = None
    """Folder for a dated result file; none is written without it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run."""

    target: str
    after_s: float
    """Since the first of such processes was there."""
    hit: bool
    """Whether there still was such a process."""
    status: int | None
    """Of the job; None where it did not end by itself in three minutes."""
    equal: bool
    lost: int
    doubled: int
    seconds: float


def main(config: Config) -> int:
    """Try the points; returns the exit status: 1 if any of them lost, doubled or changed something."""
    rng, names, outcomes = np.random.default_rng(config.seed), list(TARGETS), list[Outcome]()
    with TemporaryDirectory(prefix="kill-processes-") as folder:
        base = make_scenario(Path(folder) / "base", model="lightgcn")
        undisturbed = base.copy(Path(folder) / "undisturbed")
        if _finish(undisturbed, workers=0) != 0:
            raise SystemExit("the undisturbed run failed")
        expected = ending_of(undisturbed)
        for number in range(config.points):
            target, delay = names[number % len(names)], float(rng.uniform(0, 3.0))
            outcomes.append(_try(base.copy(Path(folder) / f"point-{number}"), expected, target, delay))
            print(outcomes[-1], flush=True)
    failed = [outcome for outcome in outcomes if not outcome.equal or outcome.lost or outcome.doubled]
    for (target, ended), count in sorted(Counter((o.target, str(o.status)) for o in outcomes if o.hit).items()):
        print(f"{target:<20} the job ended with {ended:<5} {count}")
    lost, twice = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("lost", "doubled"))
    print(f"{len(outcomes)} runs: {lost} requests lost, {twice} doubled, {len(failed)} ends differ")
    if config.output is not None:
        keep(config.output, "kill_processes", {"outcomes": [asdict(entry) for entry in outcomes]})
    return int(bool(failed))


def _try(scenario: Scenario, expected: Ending, target: str, delay: float) -> Outcome:
    """Disturb one run, let another one finish, and compare."""
    start, tag = time.perf_counter(), uuid.uuid4().hex
    job = _start(scenario, workers=2, tag=tag)
    try:
        hit = _disturb(job, tag, target, delay)
        with suppress(subprocess.TimeoutExpired):
            job.wait(_TIMEOUT_S)
    finally:
        kill_processes(tag, {job.pid})
    status = job.poll()
    recovered = _finish(scenario, workers=0)
    ending, twice = ending_of(scenario), doubled(scenario)
    return Outcome(
        target=target,
        after_s=delay,
        hit=hit,
        status=status,
        equal=recovered == 0 and ending == expected,
        lost=ending.lost,
        doubled=twice,
        seconds=time.perf_counter() - start,
    )


def _disturb(job: "subprocess.Popen[bytes]", tag: str, target: str, delay: float) -> bool:
    """Wait until there is a process of the target, then the delay, and send the signal to one of those there are."""
    part, number = TARGETS[target]
    deadline = time.monotonic() + _TIMEOUT_S
    while not _matching(tag, part) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(delay)
    there = _matching(tag, part)
    if not there:
        return False
    with suppress(ProcessLookupError):
        os.kill(there[-1].pid, number)
    return True


def _matching(tag: str, part: str) -> list[Process]:
    """Processes of a run whose command holds a text."""
    return [process for process in processes_of(tag, ()) if part in process.command]


def _start(scenario: Scenario, *, workers: int, tag: str) -> "subprocess.Popen[bytes]":
    """The job until the inbox is empty, as a user starts it."""
    command = [
        sys.executable,
        "jobs/unlearn.py",
        "--workspace",
        scenario.root,
        "--watch",
        scenario.inbox,
        "--until-empty",
    ]
    options = ["--max-batch", MAX_BATCH, "--workers", workers, "--collective-timeout-s", 5, "--residual-budget", 1e9]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [*map(str, command), *map(str, options)],
        cwd=REPOSITORY,
        env=environment | tagged_environment(tag),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _finish(scenario: Scenario, *, workers: int) -> int:
    """Run the job to its end; returns its status."""
    return _start(scenario, workers=workers, tag=uuid.uuid4().hex).wait(_TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
