"""Many small batches on one warm gang: how far the slow ones lie from the middle, and whether anything grows.

Users of a workspace are drawn without replacement, a few for each batch, and erased batch after batch by workers that
stand, from requests in memory to committed versions, on a copy of the workspace. The workspace is that of the paper's
split of Book-Crossing (benchmarks/protocol.py), or one that is given. Growth is the median of the last hundred batches
over that of the first hundred. What a batch takes is fitted to the erased interactions and the edges that it read; what
is left tells of pauses. Pauses that other work on the machine made show as seconds in which a thread stood in line for
a core (Linux).

    python -m benchmarks.steady --batches 500 --users 10 --output benchmarks/results
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field

from benchmarks.protocol import BOOKCROSSING, DATA_FOLDER, require_data
from benchmarks.records import keep
from benchmarks.steady_figures import Measured, figures
from benchmarks.steady_processes import delays, longest_delay, resident_bytes
from benchmarks.trial import Setting, Trial
from ifru_dist.config import validated
from ifru_dist.pipelines.benchmark_batches import BatchDraw
from ifru_dist.pipelines.benchmark_cells import WatchedWorkers, measure_batch
from ifru_dist.pipelines.benchmark_scratch import ended_by_signal, scratch_copy
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.erasing import EraseFlags, Eraser
from ifru_dist.pipelines.progress import say
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

_BUDGET = 100.0  # more than any stream leaves: nothing is to end it
_SAID_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to erase."""

    workspace: Path | None = None
    """One with a trained model, which stays as it is; without it one is made of Book-Crossing."""
    data_folder: Path = DATA_FOLDER
    """Folder of bookcrossing.parquet."""
    batches: Annotated[int, Field(ge=2)] = 500
    users: Annotated[int, Field(ge=1)] = 10
    """Of a batch."""
    activity: Annotated[float, Field(ge=0, le=2)] = 0.0
    """A user is drawn with a probability in proportion to its interactions to this power; 0: all alike."""
    warm_up: Annotated[int, Field(ge=0)] = 5
    """Batches before these that do not count."""
    workers: Annotated[int, Field(ge=0)] = 2
    """0: one worker in this process, without Ray."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Of each worker."""
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path | None = None
    """Where a dated file of the figures is kept."""


def main(config: Config) -> None:
    """Erase batch after batch, print, and keep the figures."""
    config = validated(config)
    with _workspace(config) as root, ended_by_signal():
        results = measured(config, open_version(Workspace(root)))
    for name, value in results.items():
        print(f"{name}: {value}")
    if config.output is not None:
        keep(config.output, "steady", results)


@contextmanager
def _workspace(config: Config) -> Iterator[Path]:
    """The given workspace, or one of Book-Crossing that goes in the end."""
    if config.workspace is not None:
        yield config.workspace
        return
    require_data([config.data_folder / BOOKCROSSING.file])
    with TemporaryDirectory(prefix="steady-") as folder:
        setting = Setting(data=config.data_folder, folder=Path(folder), seed=1, references=1)
        trial = Trial(setting, BOOKCROSSING, share=0.02, flipped=False)
        trial.train()
        yield trial.workspace


def measured(config: Config, version: Version) -> dict[str, Any]:
    """The figures of all batches, erased from a copy of the version."""
    draw = BatchDraw(version, seed=config.seed, activity=config.activity, share=1.0)
    count = config.warm_up + config.batches
    draw.check([config.users], count)
    flags = EraseFlags(
        workers=config.workers,
        threads_per_worker=config.threads,
        residual_budget=_BUDGET,
        key_file=version.workspace.default_key_file,
    )
    batches, failed = [], 0
    with (
        scratch_copy(version, version.workspace.root.parent) as copy,
        WatchedWorkers(flags) as workers,
        copy.workspace.lock("benchmark"),
    ):
        eraser = Eraser(copy, flags, workers)
        for number, requests in enumerate(draw.draw(config.users, count)):
            before = delays(_processes(workers, eraser))
            sample = measure_batch(eraser, workers, requests)
            processes = _processes(workers, eraser)
            delayed_s = longest_delay(before, delays(processes))
            if number % _SAID_EVERY == 0:
                say(f"batch {number} of {count}")
            if sample is None:
                failed += 1
            elif number >= config.warm_up:
                memory = [resident_bytes(process) for process in processes]
                batches.append(Measured(sample=sample, memory=memory, delayed_s=delayed_s))
        left = eraser.version.manifest
    return {
        "data": {"interactions": version.manifest.n_examples, "users": len(draw.users)},
        "left": {"interactions": left.n_examples - left.n_erased, "version": left.version},
        "workers": config.workers,
        "threads": config.threads,
        "users_of_a_batch": config.users,
        "failed": failed,
        **figures(batches),
    }


def _processes(workers: WatchedWorkers, eraser: Eraser) -> list[int]:
    """The coordinator and the workers, who are taken to be on this machine."""
    found: list[int] = workers.run(eraser.version, lambda gang: gang.call("process_id"))
    return list(dict.fromkeys([os.getpid(), *found]))


if __name__ == "__main__":
    run_command(Config, main)
