"""What a batch costs on any number of workers: a model with few coefficients, fitted to measured batches.

With W workers a batch takes

    T = coordinator + compute + calls + exchange
    coordinator = base + per_interaction * interactions
    compute = start + per_held * held(W) + per_read * reads(W)
    calls = number of calls * call(W)
    exchange = number of exchanges * (wait + latency(W)) + received(W) / bytes_per_s, for W > 1

where held(W) are the edges that the slowest worker holds, which every batch passes over to find its own, reads(W) those
that it reads while it solves, and received(W) the bytes that arrive at the busiest one. Every part is measured and
fitted by itself, as the sum alone would not tell the causes apart; no coefficient is negative. For how long workers
wait for each other (wait) is taken to stay as it is. How the latency of a collective grows cannot be seen with few
workers, so there are two patterns: rings, where a message goes from one worker to the next, and trees, where the number
of those that have it doubles with every step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

MIN_POINTS = 5
"""A fit of up to three coefficients says nothing about itself with fewer measured batches."""

Pattern = Literal["ring", "tree"]
"""How a collective reaches all workers."""


def steps(workers: int, pattern: Pattern) -> float:
    """Steps of a collective, one after the other, in units of one between two workers; 0 for a worker alone."""
    return workers - 1 if pattern == "ring" else math.log2(workers)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one batch asks of a number of workers."""

    workers: int
    interactions: float
    """Erased by the batch: what the coordinator routes and commits."""
    held: float
    """Edges of the worker that holds the most, whether the batch concerns them or not."""
    reads: float
    """Edge reads of the worker that has the most."""
    exchanges: float
    """Collectives, the same for every number of workers."""
    received_bytes: float
    """Payload of rows that arrives at the worker that gets the most."""
    calls: float
    """Calls of the coordinator on all workers."""


@dataclass(frozen=True)
class Growth:
    """Seconds that grow with a count: fixed + each * count."""

    fixed: float
    each: float

    def at(self, count: float) -> float:
        """Seconds at a count."""
        return self.fixed + self.each * count


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """What lies between the coordinator and the workers, and was timed by itself."""

    pattern: Pattern
    latency: Growth
    """Seconds of a collective for which nobody is late, by its steps."""
    call: Growth
    """Seconds of a call on all workers that does nothing, by their number."""
    bytes_per_s: float | None
    """Payload that a worker receives; None where it is too quick to be seen."""

    def exchange_s(self, work: Work) -> float:
        """Seconds of a batch's exchanges for which nobody is late; none where a worker is alone."""
        if work.workers == 1:
            return 0.0
        moving = work.received_bytes / self.bytes_per_s if self.bytes_per_s else 0.0
        return work.exchanges * self.latency.at(steps(work.workers, self.pattern)) + moving


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The fitted coefficients, seconds each."""

    base_s: float
    """Of the coordinator, for every batch."""
    per_interaction_s: float
    start_s: float
    """Of the slowest worker, for every batch."""
    per_held_s: float
    per_read_s: float
    wait_s: float
    """For other workers, for every exchange; taken to be the same for any number of them but one."""
    fabric: Fabric

    def seconds(self, work: Work) -> float:
        """What a batch takes."""
        return sum(self.parts(work).values())

    def parts(self, work: Work) -> dict[str, float]:
        """What a batch takes, by cause."""
        waits = work.exchanges * self.wait_s if work.workers > 1 else 0.0
        return {
            "coordinator": self.base_s + self.per_interaction_s * work.interactions,
            "compute": self.start_s + self.per_held_s * work.held + self.per_read_s * work.reads,
            "calls": work.calls * self.fabric.call.at(work.workers),
            "exchange": waits + self.fabric.exchange_s(work),
        }


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured batch, in seconds."""

    work: Work
    seconds: float
    """By the clock, from requests to commit."""
    coordinator_s: float
    """Of the coordinator's own work."""
    compute_s: float
    """CPU seconds of the busiest worker."""
    exchange_s: float
    """In exchanges, of the worker that waited least for the others."""


def fit_growth(seconds: Mapping[float, float]) -> Growth:
    """The non-negative line through seconds by count, least squares of the relative errors.

    One count cannot tell a slope from a start: the seconds are then taken to be in proportion to it, which promises
    less of larger counts than a start would.
    """
    if len(seconds) == 1:
        ((count, value),) = seconds.items()
        return Growth(0.0, value / count)
    counts, values = np.array(list(seconds), dtype=np.float64), np.array(list(seconds.values()))
    if not values.any():
        return Growth(0.0, 0.0)
    fixed, each = _relative_fit(np.stack([np.ones_like(counts), counts], axis=1), values, np.maximum(values, 1e-12))
    return Growth(fixed, each)


def fit_costs(points: Sequence[Point], fabric: Fabric) -> CostModel:
    """Fit every part to its own causes, least squares in units of each batch's whole seconds.

    Args:
        points: at least ``MIN_POINTS``, some of them with several workers.
        fabric: what was timed by itself.
    """
    works, seconds = [point.work for point in points], np.array([point.seconds for point in points])
    coordinator = np.array([[1.0, work.interactions] for work in works])
    compute = np.array([[1.0, work.held, work.reads] for work in works])
    base, per_interaction = _relative_fit(coordinator, np.array([point.coordinator_s for point in points]), seconds)
    start, per_held, per_read = _relative_fit(compute, np.array([point.compute_s for point in points]), seconds)
    return CostModel(
        base_s=base,
        per_interaction_s=per_interaction,
        start_s=start,
        per_held_s=per_held,
        per_read_s=per_read,
        wait_s=_waiting(points, fabric),
        fabric=fabric,
    )


def _waiting(points: Sequence[Point], fabric: Fabric) -> float:
    """Seconds for each exchange beyond those for which nobody is late: the median over batches of several workers."""
    exchanging = [point for point in points if point.work.workers > 1 and point.work.exchanges > 0]
    late = [(point.exchange_s - fabric.exchange_s(point.work)) / point.work.exchanges for point in exchanging]
    return max(0.0, float(np.median(late))) if late else 0.0


def relative_error(model: CostModel, points: Sequence[Point]) -> float:
    """(projected - measured) / measured, of the medians over some measured batches."""
    measured = float(np.median([point.seconds for point in points]))
    return float(np.median([model.seconds(point.work) for point in points])) / measured - 1


def fewest_seconds(seconds: Mapping[int, float]) -> int:
    """The number of workers past which adding more no longer shortens a batch: the smallest with the fewest seconds."""
    return min(seconds, key=lambda workers: (seconds[workers], workers))


def _relative_fit(causes: NDArray[np.float64], part: NDArray[np.float64], seconds: NDArray[np.float64]) -> list[float]:
    """Non-negative x with causes (n, k) x ~ part (n,), every row in units of its whole seconds (n,)."""
    scale = np.abs(causes).max(axis=0)
    scale[scale == 0] = 1.0  # a cause that is in no point gets the coefficient 0
    solution, _ = nnls(causes / scale / seconds[:, None], part / seconds)
    return [float(value) for value in solution / scale]
