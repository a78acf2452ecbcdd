"""What many batches on one gang tell: percentiles, growth, and what is not explained by what a batch had to read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ifru_dist.pipelines.benchmark_cells import BatchSample
from ifru_dist.pipelines.benchmark_figures import PHASES, percentiles

TAIL = 3.0
"""What the 95th percentile may be of the median, at most."""
_END = 100
"""Batches at either end that growth is told from."""
_SLOWEST = 10


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A batch."""

    sample: BatchSample
    memory: list[int]
    """Resident bytes after it: of the coordinator, then of the workers by rank."""
    delayed_s: float
    """Seconds in which its most hindered thread stood in line for a core, from before it until all were ready."""


def figures(batches: Sequence[Measured]) -> dict[str, Any]:
    """All figures of some batches in their order."""
    samples = [batch.sample for batch in batches]
    latency = np.array([sample.latency_s for sample in samples])
    until_ready = latency + np.array([sample.advance_s for sample in samples])
    fitted, costs = _explained(samples, latency)
    erased = [float(sample.interactions) for sample in samples]
    return {
        "batches": len(samples),
        "interactions": _spread(erased),
        "latency_s": _spread(latency),
        "delayed_s": _spread([batch.delayed_s for batch in batches]),
        "until_ready_s": _spread(until_ready),
        "p95_over_p50": _tail(latency),
        "p95_over_p50_asked": TAIL,
        "growth": {
            "latency": growth(latency),
            "until_ready": growth(until_ready),
            "interactions": growth(erased),
            "memory_by_process": [growth(column) for column in zip(*(batch.memory for batch in batches), strict=True)],
        },
        "memory_bytes": {"first": batches[0].memory, "last": batches[-1].memory},
        "phases_s": {name: _phase(samples, _of_phase(name)) for name in PHASES}
        | {"advance": _phase(samples, lambda sample: sample.advance_s)},
        "explained": costs
        | {
            "p95_over_p50_of_what_is_left": _tail(latency - fitted + np.median(fitted)),
            "over_three_times_the_fit": int(np.count_nonzero(latency > TAIL * fitted)),
        },
        "slowest": [_described(number, batches[number], fitted[number]) for number in np.argsort(-latency)[:_SLOWEST]],
    }


def growth(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Median of the last hundred over that of the first hundred; of fewer than two hundred the halves."""
    end = min(_END, len(values) // 2)
    return float(median(values[-end:]) / median(values[:end]))


def _spread(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Percentiles, mean and maximum."""
    return percentiles(list(map(float, values))) | {"max": float(max(values))}


def _tail(values: NDArray[np.float64]) -> float:
    """The 95th percentile over the median."""
    p50, p95 = np.percentile(values, [50, 95])
    return float(p95 / p50)


def _explained(
    samples: Sequence[BatchSample], latency: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Seconds (batches,) by what each batch erased and read, and the costs: not negative, by relative least squares."""
    causes = np.array([[1.0, sample.interactions, sample.product_reads + sample.residual_reads] for sample in samples])
    scale = np.maximum(causes.max(axis=0), 1.0)
    solved, _ = nnls(causes / scale / latency[:, None], np.ones(len(latency)))
    fitted = causes / scale @ solved
    spread = float(((latency - latency.mean()) ** 2).sum())
    names = ("per_batch_s", "per_interaction_s", "per_edge_read_s")
    return fitted, {name: float(cost) for name, cost in zip(names, solved / scale, strict=True)} | {
        "share_of_variance": 1 - float(((latency - fitted) ** 2).sum()) / spread if spread else 0.0
    }


def _of_phase(name: str) -> Callable[[BatchSample], float]:
    """A phase of a batch."""
    return lambda sample: sample.phases[name]


def _phase(samples: Sequence[BatchSample], seconds: Callable[[BatchSample], float]) -> dict[str, float]:
    """Percentiles of a phase over the batches, and how it grew."""
    values = [seconds(sample) for sample in samples]
    return _spread(values) | {"growth": growth(values) if median(values) > 0 else 1.0}


def _described(number: int, batch: Measured, fitted_s: float) -> dict[str, Any]:
    """A batch by its number, with what it would have taken by the fit."""
    sample = batch.sample
    return {
        "batch": int(number),
        "latency_s": sample.latency_s,
        "fitted_s": float(fitted_s),
        "delayed_s": batch.delayed_s,
        "busy_s": sample.busy_s,
        "interactions": sample.interactions,
        "edges_read": sample.product_reads + sample.residual_reads,
        "phases_s": {name: sample.phases[name] for name in PHASES} | {"advance": sample.advance_s},
    }
