"""The options of jobs/benchmark.py, and which cells they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ifru_dist.pipelines.benchmark_batches import BatchDraw
from ifru_dist.pipelines.erasing import EraseFlags
from ifru_dist.pipelines.solving import SolveFlags
from ifru_dist.workspace.store import Workspace

DEFAULT_SIZES = (1, 10, 100, 1000)

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SolveFlags):
    """Measure how quickly batches are erased, by workers and batch sizes; the workspace stays as it is.

    Batches are erased from a copy that is removed afterwards. Every batch erases other users, so the data shrink a
    little from batch to batch; each number of workers and batch size begins with the workspace as it is, and all
    numbers of workers erase the same users.
    """

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    workers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1, 2)
    """Numbers of workers to measure; 0: one worker in this process, without Ray."""
    batch_sizes: Literal["auto"] | Annotated[tuple[Count, ...], Field(min_length=1)] = "auto"
    """Users that a batch erases; auto: 1, 10, 100 and 1000, as far as there are users for them."""
    repeats: Count = 5
    """Batches that are measured for each number of workers and batch size."""
    warm_up: Annotated[int, Field(ge=0)] = 1
    """Batches before these that are erased but not measured."""
    weak_batch_size: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Users for each worker, for weak scaling; auto: the largest batch size for which there are users; 0: none."""
    activity: Annotated[float, Field(ge=0, le=2)] = 1.0
    """A user is drawn with a probability in proportion to the number of its interactions to this power: 1: who is
    active asks as often as its interactions say; 0: all alike."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each drawn user's interactions that is erased; 1: the whole user."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw."""
    fresh_jobs: bool = True
    """For each cell, run jobs/unlearn.py once as a process of its own, from the command to the committed version."""
    retrain: bool = True
    """Train the model anew on what the largest batch leaves, for the speed-up; it takes as long as training did."""
    fine_tune: bool = True
    """Train the model one epoch further on that, for the speed-up."""
    project_to: Annotated[tuple[Count, ...], Field(min_length=1)] = (8, 64, 512)
    """Numbers of workers that the cost model projects to."""
    gpus_per_worker: Literal[0, 1] = 0
    """1: measure all of it once more with a GPU for each worker, where there are GPUs."""
    damping: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """As for jobs/unlearn.py."""
    temperature: Literal["auto"] | Annotated[float, Field(ge=1, allow_inf_nan=False)] = "auto"
    """As for jobs/unlearn.py."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """How long to wait for room on the cluster."""
    collective_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long workers, or the coordinator, wait for a silent one before the gang is given up."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""
    scratch: Path | None = None
    """Folder for the copy; default: the one in which the workspace lies. On another file system files are copied, not
    linked; on a cluster all nodes must share it."""
    output: Path | None = None
    """Where report, tables and plot go; default: WORKSPACE/reports/benchmark-VERSION."""

    @property
    def batches(self) -> int:
        """Batches of a cell, those that warm up included."""
        return self.repeats + self.warm_up

    def erase_flags(self, workers: int, gpus_per_worker: Literal[0, 1]) -> EraseFlags:
        """How a number of workers erases."""
        own = {field.name for field in fields(EraseFlags)} & {field.name for field in fields(BenchmarkConfig)}
        shared = {name: getattr(self, name) for name in own}
        key_file = self.key_file or Workspace(self.workspace).default_key_file
        return EraseFlags(**shared | {"workers": workers, "gpus_per_worker": gpus_per_worker, "key_file": key_file})


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What is to be measured on each kind of device."""

    cells: tuple[tuple[int, int], ...]
    """Workers and batch size, ascending."""
    weak_base: int | None
    """Users for each worker in weak scaling."""
    notes: tuple[str, ...]
    """What was left out."""

    @classmethod
    def of(cls, config: BenchmarkConfig, draw: BatchDraw) -> "CellPlan":
        """Workers times batch sizes, and what weak scaling needs beside them.

        Raises:
            ConfigError: there are not enough users.
        """
        largest, workers = draw.largest(config.batches), sorted(set(config.workers))
        sizes, notes = _sizes(config, draw, largest)
        base = _weak_base(config, sizes, workers, largest)
        weak = {(count, base * count) for count in workers if count} if base else set()
        draw.check(sorted({size for _, size in weak}), config.batches)
        strong = {(count, size) for count in workers for size in sizes}
        return cls(cells=tuple(sorted(strong | weak)), weak_base=base, notes=notes)


def _sizes(config: BenchmarkConfig, draw: BatchDraw, largest: int) -> tuple[list[int], tuple[str, ...]]:
    """The batch sizes, ascending, and what is left out of the default ones."""
    if config.batch_sizes != "auto":
        draw.check(config.batch_sizes, config.batches)
        return sorted(set(config.batch_sizes)), ()
    draw.check(DEFAULT_SIZES[:1], config.batches)
    out = [size for size in DEFAULT_SIZES if size > largest]
    listed = ", ".join(map(str, out))
    note = f"no batches of {listed} users: {config.batches} batches may take half of the {len(draw.users)} users"
    return [size for size in DEFAULT_SIZES if size <= largest], (note,) if out else ()


def _weak_base(config: BenchmarkConfig, sizes: Sequence[int], workers: Sequence[int], largest: int) -> int | None:
    """Users for each worker in weak scaling; None where there is nothing to compare."""
    gangs = [count for count in workers if count]
    if len(gangs) < 2 or config.weak_batch_size == 0:
        return None
    if config.weak_batch_size != "auto":
        return config.weak_batch_size
    return max((size for size in sizes if size * gangs[-1] <= largest), default=None)
