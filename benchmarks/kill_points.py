"""jobs/unlearn.py --watch, cut off at any step of its batches: the next run has to end as an undisturbed one would.

A step is whatever reaches the disk's durable state (fsync, rename, link, unlink), or one of the named points between.
Each point is a run of its own: a seeded step, and a fault there. What is compared is everything that the workspace's
versions say and hold, bit for bit, and every receipt; only times may differ.

    python -m benchmarks.kill_points --points 200 --output benchmarks/results
"""

import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from pydantic import Field

from benchmarks.fault_scenario import MAX_BATCH, Ending, Scenario, doubled, ending_of, make_scenario
from benchmarks.records import keep
from ifru_dist.errors import IfruError
from ifru_dist.pipelines import erasing, gangs, inbox
from ifru_dist.pipelines.routing import Router
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.sharding.solo import SoloWorker
from ifru_dist.workspace import commits

Fault = Literal["killed before", "killed after", "no space", "torn"]
FAULTS: tuple[Fault, ...] = ("killed before", "killed after", "no space", "torn")
"""SIGKILL before the step; after it; the step fails with ENOSPC; SIGKILL after it, and unsynced files are halved."""
DURABLE = ("fsync", "rename", "link", "unlink")
"""Functions of os."""
NAMED: dict[str, tuple[Any, str]] = {
    "route": (Router, "route"),
    "solve": (SoloWorker, "call"),
    "merge": (erasing, "merged_update"),
    "commit": (commits, "_commit"),
    "advance": (gangs.Workers, "advance"),
    "settle": (inbox.Inbox, "settle"),
}
"""Further points: where each lies, and its name there."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to try."""

    points: Annotated[int, Field(ge=1)] = 200
    """Kill points."""
    seed: int = 1
    """Of their choice."""
    model: str = "mf"
    """Model of the workspace."""
    output: Path | None = None
    """Folder for a dated result file; none is written without it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one point."""

    step: int
    fault: Fault
    name: str
    """What the step was."""
    reached: bool
    """Whether the run was cut off: without a step of that number it was not."""
    equal: bool
    """Whether the end was that of the undisturbed run, bit for bit."""
    lost: int
    doubled: int
    seconds: float


def main(config: Config) -> int:
    """Run the points; returns the exit status: 1 if any of them lost, doubled or changed something."""
    outcomes = run(config.points, config.seed, config.model)
    failed = [outcome for outcome in outcomes if not outcome.equal or outcome.lost or outcome.doubled]
    table = Counter((outcome.name, outcome.fault) for outcome in outcomes if outcome.reached)
    for (name, fault), count in sorted(table.items()):
        print(f"{name:>8} {fault:<14} {count}")
    cut_off, lost, twice = (sum(getattr(o, name) for o in outcomes) for name in ("reached", "lost", "doubled"))
    print(f"{len(outcomes)} points, {cut_off} runs cut off")
    print(f"{lost} requests lost, {twice} doubled, {len(failed)} ends differ from the undisturbed one")
    for outcome in failed:
        print(f"FAILED: {outcome}")
    if config.output is not None:
        counts = {"points": len(outcomes), "cut_off": cut_off, "lost": lost, "doubled": twice, "different": len(failed)}
        keep(config.output, "kill_points", {**counts, "outcomes": [asdict(outcome) for outcome in outcomes]})
    return int(bool(failed))


def run(points: int, seed: int, model: str = "mf") -> list[Outcome]:
    """Try so many points, each on a fresh copy of one scenario."""
    rng = np.random.default_rng(seed)
    with TemporaryDirectory(prefix="kill-points-") as folder:
        base = make_scenario(Path(folder) / "base", model=model)
        undisturbed = base.copy(Path(folder) / "undisturbed")
        steps = Path(folder) / "steps"
        status = _in_child(undisturbed, lambda: _Steps(report=steps))
        if status != 0:
            raise SystemExit(f"the undisturbed run ended with status {status}")
        expected, count = ending_of(undisturbed), len(steps.read_text().split())
        outcomes = []
        for number in range(points):
            step, fault = int(rng.integers(1, count + 1)), FAULTS[int(rng.integers(len(FAULTS)))]
            scenario = base.copy(Path(folder) / f"point-{number}")
            outcomes.append(_try(scenario, expected, step, fault, steps))
    return outcomes


def _try(scenario: Scenario, expected: Ending, step: int, fault: Fault, steps: Path) -> Outcome:
    """Cut one run off, let another one finish, and compare."""
    start = time.perf_counter()
    steps.write_text("")
    status = _in_child(scenario, lambda: _Steps(report=steps, at=step, fault=fault))
    names = steps.read_text().split()
    if fault == "torn":
        _cut_unsynced(scenario)
    recovered = _in_child(scenario, lambda: None)
    try:
        ending, twice = ending_of(scenario), doubled(scenario)
    except IfruError as error:
        raise SystemExit(f"step {step}, {fault}: {error}") from error
    return Outcome(
        step=step,
        fault=fault,
        name=names[-1] if names else "",
        reached=status != 0,
        equal=recovered == 0 and ending == expected,
        lost=ending.lost,
        doubled=twice,
        seconds=time.perf_counter() - start,
    )


class _Steps:
    """Counts the steps of this process, and fails at one of them."""

    def __init__(self, *, report: Path, at: int | None = None, fault: Fault = "killed before") -> None:
        """Wrap what a step is."""
        self._report, self._at, self._fault, self._count = report.open("a"), at, fault, 0
        for name in DURABLE:
            setattr(os, name, self._step(name, getattr(os, name)))
        for name, (place, attribute) in NAMED.items():
            setattr(place, attribute, self._step(name, getattr(place, attribute)))

    def _step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is a step."""

        def step(*arguments: Any, **options: Any) -> Any:
            self._count += 1
            print(name, file=self._report, flush=True)
            here = self._count == self._at
            if here and self._fault == "killed before":
                os.kill(os.getpid(), signal.SIGKILL)
            if here and self._fault == "no space":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            result = function(*arguments, **options)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step


def _in_child(scenario: Scenario, prepare: Callable[[], object]) -> int:
    """Run the job on a scenario in a forked process until its inbox is empty; returns its status, or -signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os._exit(_run_job(scenario, prepare))
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _run_job(scenario: Scenario, prepare: Callable[[], object]) -> int:
    """The job in this process, silently."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    config = UnlearnConfig(
        workspace=scenario.root,
        watch=scenario.inbox,
        workers=0,
        max_batch=MAX_BATCH,
        residual_budget=1e9,
        until_empty=True,
    )
    prepare()
    try:
        return unlearn(config)
    except (IfruError, OSError):
        return 1


def _cut_unsynced(scenario: Scenario) -> None:
    """Halve every file that a crash may have left unsynced: those under a passing name, and under no other."""
    for path in scenario.folder.rglob(".*"):
        if path.is_file() and path.stat().st_nlink == 1:
            os.truncate(path, path.stat().st_size // 2)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
