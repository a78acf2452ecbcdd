"""A gang of one in this very process, without Ray: for one machine, and for whoever calls the package as a library."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from ifru_dist.sharding.worker import Worker, WorkerPlan


class WorkerGroup(Protocol):
    """Workers that hold one version together."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method on all workers at once; results by rank."""


class SoloWorker:
    """The only worker of a version."""

    def __init__(self, plan: WorkerPlan) -> None:
        """Load all partitions."""
        self._worker = Worker(plan)
        self._worker.connect("", "")

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest of the version that it holds."""
        return self._worker.plan.digest

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of the worker."""
        return [getattr(self._worker, method)(*arguments)]


@contextmanager
def kept_threads() -> Iterator[None]:
    """Give back the number of torch's threads, which a worker sets."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def solo_worker(plan: WorkerPlan) -> Iterator[SoloWorker]:
    """The worker of a plan for one."""
    with kept_threads():
        yield SoloWorker(plan)
