"""How jobs come by workers: the options that all of them share, and the work done with a gang on Ray or in process."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Annotated, Literal, Self, TypeVar

import torch
from pydantic import Field

from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.ray_session import ray_session
from ifru_dist.sharding.gang import GangOptions, StandingGang
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.solo import SoloWorker, WorkerGroup, kept_threads
from ifru_dist.sharding.worker import Change, WorkerPlan
from ifru_dist.workspace.version import Version

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class GangFlags:
    """Options of jobs that compute with workers."""

    workers: Annotated[int, Field(ge=0)] = 2
    """Shard actors that solve together; 0: one worker in this process, without Ray."""
    threads_per_worker: Annotated[int, Field(ge=1)] = 1
    """Threads, and CPUs of the cluster, of each worker. On one machine threads spare what workers would exchange; the
    result is the same, bit for bit."""
    gpus_per_worker: Literal[0, 1] = 0
    """1: each worker computes on a GPU of its own."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a failed gang is rebuilt and the work tried again."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """How long to wait for room on the cluster."""
    collective_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long workers, or the coordinator, wait for a silent one before the gang is given up."""


class Workers:
    """The workers of a job, who stand from one batch to the next; a context that leaves none behind."""

    def __init__(self, flags: GangFlags) -> None:
        """Nothing is started before it is needed."""
        self._flags, self._context = flags, ExitStack()
        options = GangOptions(
            cpus_per_worker=flags.threads_per_worker,
            gpus_per_worker=flags.gpus_per_worker,
            start_timeout_s=flags.start_timeout_s,
            silence_s=flags.collective_timeout_s,
        )
        self._gang = StandingGang(options, flags.max_retries)
        self._session = False
        self._planned: WorkerPlan | None = None
        self._solo: SoloWorker | None = None

    def run(
        self, version: Version, work: Callable[[WorkerGroup], Result], on_failure: Callable[[Failure], None]
    ) -> Result:
        """Do work with workers that hold a version; it must have no effect before it returns: it may be done again.

        Raises:
            IfruError: as a worker raised it.
            GangError: the workers could not be started, or failed too often.
        """
        flags, plan = self._flags, self._plan(version)
        if flags.workers == 0:
            return work(self._in_process(plan))
        if not self._gang.holds(plan):
            say(f"starting {flags.workers} workers for version {version.manifest.version}")
        if not self._session:
            self._context.enter_context(ray_session(flags.workers * flags.threads_per_worker))
            self._session = True
        return self._gang.run(plan, work, on_failure)

    def _plan(self, version: Version) -> WorkerPlan:
        """Who holds what of a version; made anew for one that these workers have not come to by a batch."""
        plan, number = self._planned, version.manifest.version
        if plan is None or version.lent or plan.model is not None or plan.version != number:
            flags = self._flags
            plan = WorkerPlan.for_version(
                version,
                max(flags.workers, 1),
                device="cuda" if flags.gpus_per_worker else "cpu",
                threads=flags.threads_per_worker,
                timeout_s=flags.collective_timeout_s,
            )
            self._planned = plan
        return plan

    def advance(self, change: Change) -> None:
        """Go on to the version that committing the last batch made."""
        if self._planned is not None:
            self._planned = replace(self._planned, version=change.version, digest=change.digest)
        if self._solo is not None:
            self._solo.call("advance", change)
        self._gang.advance(change)

    def __enter__(self) -> Self:
        """The workers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the workers and Ray back."""
        self._gang.close()
        self._context.close()

    def _in_process(self, plan: WorkerPlan) -> SoloWorker:
        """The worker in this process: the one that holds the plan's version, or a fresh one."""
        if self._solo is None:
            _require_device(self._flags)
            self._context.enter_context(kept_threads())
        if self._solo is None or self._solo.digest != plan.digest:
            say(f"loading version {plan.version} into this process")
            self._solo = None  # its memory
            self._solo = SoloWorker(plan)
        return self._solo


def run_on_workers(
    version: Version,
    flags: GangFlags,
    work: Callable[[WorkerGroup], Result],
    on_failure: Callable[[Failure], None],
) -> Result:
    """Do one piece of work with workers of its own; see ``Workers.run``."""
    with Workers(flags) as workers:
        return workers.run(version, work, on_failure)


def _require_device(flags: GangFlags) -> None:
    """Raise ConfigError when this process is to compute on a GPU and has none; on Ray the cluster says so itself."""
    if flags.gpus_per_worker and not torch.cuda.is_available():
        raise ConfigError(
            "--gpus-per-worker = 1 with --workers 0: this process sees no CUDA device: leave --gpus-per-worker out, or "
            "use workers on a cluster that has GPUs"
        )
