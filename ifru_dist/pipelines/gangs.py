"""How jobs come by workers: the options that all of them share, and the work done with a gang on Ray or in process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field

from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.ray_session import ray_session
from ifru_dist.sharding.gang import GangOptions, plans_for, with_gang
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.solo import WorkerGroup, solo_worker
from ifru_dist.sharding.worker import WorkerPlan
from ifru_dist.workspace.version import Version

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class GangFlags:
    """Options of jobs that compute with workers."""

    workers: Annotated[int, Field(ge=0)] = 2
    """Shard actors that solve together; 0: one worker in this process, without Ray."""
    gpus_per_worker: Literal[0, 1] = 0
    """1: each worker computes on a GPU of its own."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a failed gang is rebuilt and the work tried again."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """How long to wait for room on the cluster."""
    collective_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """How long workers wait for a silent peer before the gang is given up."""


def run_on_workers(
    version: Version,
    flags: GangFlags,
    work: Callable[[WorkerGroup], Result],
    on_failure: Callable[[Failure], None],
) -> Result:
    """Do work with workers that hold a version; it must have no effect before it returns, as it may be done again.

    Raises:
        IfruError: as a worker raised it.
        GangError: the workers could not be started, or failed too often.
    """
    device = "cuda" if flags.gpus_per_worker else "cpu"
    plan = WorkerPlan.for_version(version, max(flags.workers, 1), device=device, timeout_s=flags.collective_timeout_s)
    if flags.workers == 0:
        _require_device(flags)
        say(f"loading version {version.manifest.version} into this process")
        with solo_worker(plan) as worker:
            return work(worker)
    say(f"starting {flags.workers} workers for version {version.manifest.version}")
    options = GangOptions(gpus_per_worker=flags.gpus_per_worker, start_timeout_s=flags.start_timeout_s)
    with ray_session(flags.workers):
        return with_gang(plans_for(plan), options, work, max_retries=flags.max_retries, on_failure=on_failure)


def _require_device(flags: GangFlags) -> None:
    """Raise ConfigError when this process is to compute on a GPU and has none; on Ray the cluster says so itself."""
    if flags.gpus_per_worker and not torch.cuda.is_available():
        raise ConfigError(
            "--gpus-per-worker = 1 with --workers 0: this process sees no CUDA device: leave --gpus-per-worker out, or "
            "use workers on a cluster that has GPUs"
        )
