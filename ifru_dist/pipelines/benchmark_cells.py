"""Measuring one cell of a benchmark: so many workers erase batches of so many users, one after the other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ifru_dist.influence.outcome import Round
from ifru_dist.pipelines.benchmark_fresh import FreshJob
from ifru_dist.pipelines.erasing import EraseFlags, Eraser
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.requests import Request
from ifru_dist.pipelines.unlearn_report import BatchResult, unlearn_report
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.probing import ExchangeProbe, Usage, peak_memory
from ifru_dist.sharding.solo import WorkerGroup
from ifru_dist.sharding.worker import Change
from ifru_dist.workspace.version import Version

Result = TypeVar("Result")

_CALLS_TIMED = 21
"""How often a call that does nothing is timed; the median counts."""


@dataclass(frozen=True, kw_only=True)
class BatchSample:
    """One measured batch."""

    latency_s: float
    """From requests in memory to the committed version."""
    advance_s: float
    """From then until the workers are ready for the next batch."""
    phases: dict[str, float]
    """Parts of the latency; those of the solve are of the slowest worker."""
    interactions: int
    examples: NDArray[np.int64]
    """Ids of the erased training interactions."""
    endpoints: NDArray[np.int64]
    """Global rows, ascending, of their users and items."""
    bytes_exchanged: int
    busy_s: list[float]
    """CPU seconds of each worker's process until the commit, by rank."""
    calling_s: float
    """CPU seconds of the coordinator while the workers are at work; 0 where the worker is in its process."""
    exchange_s: list[float]
    """Seconds of each worker in exchanges, waiting included."""
    exchanges: int
    gathered_bytes: int
    """Payload of rows sent, all workers together."""
    rounds: list[Round]
    """Of the solve; none where nothing had to be solved."""

    @property
    def coordinator_s(self) -> float:
        """The part of the latency in which the coordinator does not wait for workers."""
        return max(0.0, self.latency_s - self.phases["route"] - self.phases["gang"])

    @property
    def busy_latency_s(self) -> float:
        """What the latency would be, but for waiting, if every worker had a core of its own."""
        return self.coordinator_s + self.calling_s + max(self.busy_s)

    @property
    def product_reads(self) -> float:
        """Edges read by curvature products, all workers together."""
        return float(sum(sum(entry.iterations) * entry.edges_per_product for entry in self.rounds))

    @property
    def residual_reads(self) -> float:
        """Edges read by residuals: one for each Newton step, and one at the end of a round."""
        return float(sum((len(entry.iterations) + 1) * entry.edges_per_residual for entry in self.rounds))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was measured with one number of workers and one batch size."""

    device: Literal["cpu", "cuda"]
    workers: int
    """0: one worker in the coordinator's process."""
    batch_size: int
    """Users."""
    cold_start_s: float
    """Starting the workers and loading the version, before the first batch."""
    samples: list[BatchSample]
    usages: list[Usage]
    """Of the workers after the last batch, by rank."""
    coordinator_peak_bytes: int
    call_s: float
    """Seconds of a call on all workers that does nothing."""
    probes: list[ExchangeProbe]
    disturbed: list[str] = field(default_factory=list)
    """Messages of gangs that failed: the batches that they were at do not count."""
    fresh: FreshJob | None = None
    """The first measured batch once more, by a job of its own; None where that was not asked for, or failed."""

    @property
    def ranks(self) -> int:
        """Workers, the one in the coordinator's process included."""
        return max(1, self.workers)

    @property
    def oversubscribed(self) -> bool:
        """Whether some machine has more workers than cores."""
        hosts: dict[str, list[int]] = {}
        for usage in self.usages:
            hosts.setdefault(usage.host, []).append(usage.cores)
        return any(len(cores) > max(cores) for cores in hosts.values())


class WatchedWorkers(Workers):
    """Workers of a job, who tell when a batch was committed and what they had used until then."""

    def __init__(self, flags: EraseFlags) -> None:
        """Nothing is started before it is needed."""
        super().__init__(flags)
        self.flags = flags
        self._held: Version | None = None
        self.committed_at = self.advance_s = 0.0
        self.calling_s = self.called_s = 0.0
        """CPU seconds of the coordinator in calls, altogether and until the last commit."""
        self.usages: list[Usage] = []
        self.failures: list[str] = []

    def run(
        self,
        version: Version,
        work: Callable[[WorkerGroup], Result],
        on_failure: Callable[[Failure], None] | None = None,
    ) -> Result:
        """Do work, see ``Workers.run``; failures are kept."""
        self._held = version

        def note(failure: Failure) -> None:
            self.failures.append(failure.message)
            if on_failure is not None:
                on_failure(failure)

        start = time.process_time()
        try:
            return super().run(version, work, note)
        finally:
            self.calling_s += time.process_time() - start if self.flags.workers else 0.0

    def advance(self, change: Change) -> None:
        """Go on to the version that was committed just now; asking for the usage is not in any time."""
        self.committed_at, self.called_s = time.perf_counter(), self.calling_s
        self.usages = self.usage()
        start = time.perf_counter()
        super().advance(change)
        self.advance_s = time.perf_counter() - start

    def usage(self, version: Version | None = None) -> list[Usage]:
        """What the workers have used so far, by rank; by default of those that hold the version of the last work."""
        held = version or self._held
        assert held is not None
        return self.run(held, lambda gang: gang.call("usage"))


def measure_cell(
    workers: WatchedWorkers,
    flags: EraseFlags,
    copy: Version,
    batch_size: int,
    batches: Sequence[Sequence[Request]],
    warm_up: int,
) -> Cell:
    """Erase batches from a copy of a workspace, which is left changed.

    Args:
        workers: they start here, for the copy's version.
        flags: how batches are erased.
        copy: the version to begin with.
        batch_size: users of a batch.
        batches: what to erase; the first ones only warm up.
        warm_up: how many.

    Raises:
        IfruError: a batch was not erased.
    """
    device: Literal["cpu", "cuda"] = "cuda" if flags.gpus_per_worker else "cpu"
    start, failed = time.perf_counter(), len(workers.failures)
    workers.run(copy, lambda gang: None)
    cold_start_s = time.perf_counter() - start
    call_s = workers.run(copy, _seconds_of_a_call)
    probes: list[ExchangeProbe] = workers.run(copy, lambda gang: gang.call("probe_exchanges"))
    say(f"{_named(flags.workers, device)}, {batch_size} users: {len(batches)} batches, {warm_up} of them to warm up")
    with copy.workspace.lock("benchmark"):
        eraser = Eraser(copy, flags, workers)
        measured = [measure_batch(eraser, workers, batch) for batch in batches]
    return Cell(
        device=device,
        workers=flags.workers,
        batch_size=batch_size,
        cold_start_s=cold_start_s,
        samples=[sample for sample in measured[warm_up:] if sample is not None],
        usages=workers.usage(eraser.version),
        coordinator_peak_bytes=peak_memory(),
        call_s=call_s,
        probes=probes,
        disturbed=workers.failures[failed:],
    )


def measure_batch(eraser: Eraser, workers: WatchedWorkers, requests: Sequence[Request]) -> BatchSample | None:
    """Erase one batch; None where a gang failed meanwhile, so that the time is that of its rebuilding."""
    before, failed = workers.usage(eraser.version), len(workers.failures)
    called_s, start = workers.calling_s, time.perf_counter()
    result = eraser.erase(requests)
    if len(workers.failures) > failed:
        return None
    return _sample(result, workers, before, start, called_s)


def _sample(
    result: BatchResult, workers: WatchedWorkers, before: Sequence[Usage], start: float, called_s: float
) -> BatchSample:
    """What is kept of a batch that began at ``start``, when calls had taken ``called_s``."""
    report = unlearn_report(result, workers.flags)
    used = list(zip(before, workers.usages, strict=True))
    return BatchSample(
        latency_s=workers.committed_at - start,
        calling_s=workers.called_s - called_s,
        advance_s=workers.advance_s,
        phases=_phases(report["seconds"], result.seconds.get("gang", 0.0)),
        interactions=report["interactions_erased"],
        examples=result.routed.examples,
        endpoints=np.unique(result.routed.rows),
        bytes_exchanged=report["bytes_exchanged"],
        busy_s=[after.cpu_s - earlier.cpu_s for earlier, after in used],
        exchange_s=[after.exchange_s - earlier.exchange_s for earlier, after in used],
        exchanges=used[0][1].exchanges - used[0][0].exchanges,
        gathered_bytes=sum(after.gathered_bytes - earlier.gathered_bytes for earlier, after in used),
        rounds=result.outcomes[0].rounds if result.outcomes else [],
    )


def _phases(seconds: dict[str, Any], gang: float) -> dict[str, float]:
    """Seconds by phase as jobs/unlearn.py reports them; ``gang`` is the solve as the coordinator sees it."""
    names = ("route", "subgraph", "gradient", "solve", "verify", "commit")
    return {**{name: seconds[name] for name in names}, "gang": gang}


def _seconds_of_a_call(gang: WorkerGroup) -> float:
    """Median seconds of a call on all workers that does nothing."""
    seconds = []
    for _ in range(_CALLS_TIMED):
        start = time.perf_counter()
        gang.call("process_id")
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _named(workers: int, device: str) -> str:
    """A gang in words."""
    where = " on GPUs" if device == "cuda" else ""
    return f"{workers} workers{where}" if workers else f"one worker in this process{where}"
