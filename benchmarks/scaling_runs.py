"""Gangs that solve one batch again and again without committing it, and the figures of that."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ifru_dist.influence.outcome import Outcome
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.solving import SolveFlags, chosen_damping
from ifru_dist.sharding.gang import GangOptions, StandingGang
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.probing import ExchangeProbe, Usage
from ifru_dist.sharding.worker import WorkerPlan
from ifru_dist.workspace.version import Version

PHASES = ("subgraph", "gradient", "solve", "verify")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is erased."""

    examples: NDArray[np.int64]
    """Ids."""
    pairs: NDArray[np.int64]
    """(examples, 2) global rows."""
    users: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One solve."""

    seconds: float
    """As the coordinator sees it."""
    phases: list[dict[str, float]]
    """Of each worker."""
    busy_s: list[float]
    """CPU seconds of each worker's process."""
    exchange_s: list[float]
    """Seconds of each worker in exchanges, waiting included."""
    exchanges: list[int]
    """Of each worker."""
    gathered_bytes: list[int]
    """Payload of rows that each worker sent."""
    iterations: list[int]
    status: str


@dataclass
class Gang:
    """Workers that hold a version."""

    version: Version
    workers: int
    threads: int
    runs: list[Run] = field(default_factory=list)
    """Those that count."""
    probes: list[ExchangeProbe] = field(default_factory=list)
    call_s: float = 0.0
    """Median seconds of a call on all workers that does nothing."""
    outcomes: list[Outcome] = field(default_factory=list)
    """Of the last solve."""
    peak_bytes: list[int] = field(default_factory=list)
    """Most resident memory of each worker, in the last turn."""

    def __post_init__(self) -> None:
        """Nothing is started yet."""
        flags = SolveFlags()
        self._options = flags.solve_options(chosen_damping("auto", "auto", self.version.model, flags))
        self._plan = WorkerPlan.for_version(self.version, self.workers, threads=self.threads)
        self._gang = StandingGang(GangOptions(cpus_per_worker=self.threads), max_retries=0)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Let the workers stand inside the context; their exchanges, and a call, are timed first."""
        say(f"starting {self.workers} worker(s)")
        try:
            self.probes = self._call("probe_exchanges")
            self.call_s = median(self._seconds_of_a_call() for _ in range(21))
            yield
            self.peak_bytes = [usage.peak_bytes for usage in self._call("usage")]
        finally:
            self._gang.close()

    def solve(self, batch: Batch, *, keep_it: bool) -> Run:
        """Solve a batch, and change nothing; perhaps keep the figures."""
        before: list[Usage] = self._call("usage")
        start = time.perf_counter()
        self.outcomes = self._call("solve", batch.examples, self._options, batch.pairs)
        seconds = time.perf_counter() - start
        used = list(zip(before, self._call("usage"), strict=True))
        run = Run(
            seconds=seconds,
            phases=[outcome.seconds for outcome in self.outcomes],
            busy_s=[after.cpu_s - earlier.cpu_s for earlier, after in used],
            exchange_s=[after.exchange_s - earlier.exchange_s for earlier, after in used],
            exchanges=[after.exchanges - earlier.exchanges for earlier, after in used],
            gathered_bytes=[after.gathered_bytes - earlier.gathered_bytes for earlier, after in used],
            iterations=self.outcomes[0].iterations,
            status=self.outcomes[0].status,
        )
        if keep_it:
            self.runs.append(run)
        return run

    def update(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows that the last solve moved, ascending, and their values."""
        rows = torch.cat([outcome.rows for outcome in self.outcomes])
        order = torch.argsort(rows)
        values = torch.cat([outcome.values for outcome in self.outcomes])
        return rows[order].numpy(), values[order].numpy()

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Call all workers at once."""
        return self._gang.run(self._plan, lambda group: group.call(method, *arguments), _fail)

    def _seconds_of_a_call(self) -> float:
        """Seconds of a call that does nothing."""
        start = time.perf_counter()
        self._call("process_id")
        return time.perf_counter() - start


def figures(gang: Gang) -> dict[str, Any]:
    """Medians of a gang's runs; of each worker in the order of the ranks."""
    runs, last = gang.runs, gang.runs[-1]
    exchange = _by_rank([run.exchange_s for run in runs])
    unhindered = [_unhindered_s(last, rank, probe) for rank, probe in enumerate(gang.probes)]
    seconds = median(run.seconds for run in runs)
    return {
        "workers": gang.workers,
        "seconds": seconds,
        "all_seconds": [run.seconds for run in runs],
        "phases_s": {name: _by_rank([[part[name] for part in run.phases] for run in runs]) for name in PHASES},
        "computing_s": [seconds - part for part in exchange],
        "exchange_s": exchange,
        "exchange_without_waiting_s": unhindered,
        "waiting_s": [max(0.0, all_ - own) for all_, own in zip(exchange, unhindered, strict=True)],
        "busy_s": _by_rank([run.busy_s for run in runs]),
        "exchanges": last.exchanges,
        "gathered_bytes": last.gathered_bytes,
        "probe": {"call_s": gang.call_s, "latency_s": median(probe.latency_s for probe in gang.probes)},
        "iterations": last.iterations,
        "status": last.status,
        "peak_bytes": gang.peak_bytes,
    }


def same_bits(gangs: Sequence[Gang]) -> bool:
    """Whether the last solves of all gangs moved the same rows to the same bits."""
    first, *others = (gang.update() for gang in gangs)
    return all(all(np.array_equal(*parts) for parts in zip(first, other, strict=True)) for other in others)


def _unhindered_s(run: Run, rank: int, probe: ExchangeProbe) -> float:
    """What a worker's exchanges would take if nobody were late."""
    moving = run.gathered_bytes[rank] / probe.bytes_per_s if probe.bytes_per_s else 0.0
    return run.exchanges[rank] * probe.latency_s + moving


def _by_rank(seconds: Sequence[Sequence[float]]) -> list[float]:
    """Medians of each worker over runs."""
    return [float(value) for value in np.median(seconds, axis=0)]


def _fail(failure: Failure) -> None:
    """A gang that failed cannot be measured; its error follows."""
    say(f"failed: {failure.message}")
