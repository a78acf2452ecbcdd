"""From measured batches to the figures of a benchmark's report: percentiles, rates, speed-ups, scaling."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from ifru_dist.pipelines.benchmark_cells import BatchSample, Cell
from ifru_dist.pipelines.benchmark_fresh import FreshJob

PHASES = ("route", "gang", "subgraph", "gradient", "solve", "verify", "commit")
"""``gang`` is the solve as the coordinator sees it; the four behind it are its parts, those of the slowest worker."""


def cell_figures(cell: Cell, retrain_s: float | None, fine_tune_s: float | None) -> dict[str, Any]:
    """The figures of a cell; docs/reports.md says what each key means.

    Args:
        cell: what was measured.
        retrain_s: seconds of one retraining; None where there was none.
        fine_tune_s: seconds of one epoch from the current model; None where there was none.
    """
    samples, latency = cell.samples, latency_of(cell)
    speeds = [probe.bytes_per_s for probe in cell.probes if probe.bytes_per_s is not None]
    figures: dict[str, Any] = {
        "device": cell.device,
        "workers": cell.workers,
        "batch_size": cell.batch_size,
        "batches": len(samples),
        "measured_by": "busy" if cell.oversubscribed else "wall",
        "cold_start_s": cell.cold_start_s,
        "probe": {
            "call_s": cell.call_s,
            "latency_s": median(probe.latency_s for probe in cell.probes),
            "bytes_per_s": median(speeds) if speeds else None,
        },
        "failed_attempts": cell.disturbed,
        "fresh_job": cell.fresh and _of_a_fresh_job(cell.fresh, retrain_s, fine_tune_s),
    }
    if not samples:
        return figures
    middle = float(np.median(latency))
    return figures | {
        "interactions": _of(samples, lambda sample: sample.interactions, fmean),
        "latency_s": percentiles(latency),
        "wall_s": percentiles([sample.latency_s for sample in samples]),
        "interactions_per_second": _rate(cell),
        "phases_s": {name: median(sample.phases[name] for sample in samples) for name in PHASES}
        | {"advance": _of(samples, lambda sample: sample.advance_s, median)},
        "bytes_exchanged": _of(samples, lambda sample: sample.bytes_exchanged, fmean),
        "exchanges": _of(samples, lambda sample: sample.exchanges, fmean),
        "busy_s": _by_rank(samples, lambda sample: sample.busy_s),
        "exchange_s": _by_rank(samples, lambda sample: sample.exchange_s),
        "memory_bytes": {
            "workers": [usage.peak_bytes for usage in cell.usages],
            "devices": [usage.device_peak_bytes for usage in cell.usages],
            "coordinator": cell.coordinator_peak_bytes,
        },
        "speed_up": _speed_up(middle, retrain_s, fine_tune_s),
    }


def _of_a_fresh_job(job: FreshJob, retrain_s: float | None, fine_tune_s: float | None) -> dict[str, Any]:
    """The figures of a batch with all that comes before it."""
    return {
        "committed_s": job.committed_s,
        "ended_s": job.ended_s,
        "phases_s": job.phases,
        "speed_up": _speed_up(job.committed_s, retrain_s, fine_tune_s),
    }


def _speed_up(seconds: float, retrain_s: float | None, fine_tune_s: float | None) -> dict[str, float | None]:
    """Seconds of training over those of erasing."""
    return {
        "retrain": None if retrain_s is None else retrain_s / seconds,
        "fine_tune": None if fine_tune_s is None else fine_tune_s / seconds,
    }


def latency_of(cell: Cell, *, busy: bool | None = None) -> list[float]:
    """Seconds of each batch: of the clock, or where workers share cores the busy time.

    Args:
        cell: what was measured.
        busy: Of which kind; by default the one that the cell is judged by.
    """
    by_busy = cell.oversubscribed if busy is None else busy
    return [sample.busy_latency_s if by_busy else sample.latency_s for sample in cell.samples]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, interpolated between the batches, and the mean."""
    p50, p95, p99 = (float(value) for value in np.percentile(seconds, [50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99, "mean": fmean(seconds)}


def strong_scaling(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The same batches by more and more workers, for each device and batch size with two numbers of workers or more.

    Speed-up and efficiency are those over the fewest workers. Where some of a row's workers share cores, busy time is
    compared throughout.
    """
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in _on_gangs(cells):
        groups.setdefault((cell.device, cell.batch_size), []).append(cell)
    rows = []
    for (device, size), group in groups.items():
        rows += _compared(group, {"device": device, "batch_size": size}, grown=False)
    return rows


def weak_scaling(cells: Iterable[Cell], base: int | None) -> list[dict[str, Any]]:
    """Batches that grow with the workers, ``base`` users for each; efficiency 1 where that takes no longer."""
    groups: dict[str, list[Cell]] = {}
    for cell in _on_gangs(cells):
        if base is not None and cell.batch_size == base * cell.workers:
            groups.setdefault(cell.device, []).append(cell)
    rows = []
    for device, group in groups.items():
        rows += _compared(group, {"device": device, "users_per_worker": base}, grown=True)
    return rows


def _compared(group: Sequence[Cell], common: dict[str, Any], *, grown: bool) -> list[dict[str, Any]]:
    """Rows of cells with different numbers of workers, against the fewest; none where there is only one."""
    ordered = sorted(group, key=lambda cell: cell.workers)
    if len(ordered) < 2:
        return []
    busy = any(cell.oversubscribed for cell in ordered)
    seconds = [float(np.median(latency_of(cell, busy=busy))) for cell in ordered]
    rows = []
    for cell, took in zip(ordered, seconds, strict=True):
        ratio, more = seconds[0] / took, cell.workers / ordered[0].workers
        figures = {"efficiency": ratio} if grown else {"speed_up": ratio, "efficiency": ratio / more}
        rows.append(
            common
            | {"workers": cell.workers, "measured_by": "busy" if busy else "wall", "latency_p50_s": took}
            | {"interactions": _of(cell.samples, lambda sample: sample.interactions, fmean)}
            | figures
        )
    return rows


def _on_gangs(cells: Iterable[Cell]) -> list[Cell]:
    """Cells with something measured; a worker in the coordinator's process is no gang that could grow."""
    return [cell for cell in cells if cell.workers > 0 and cell.samples]


def _rate(cell: Cell) -> float:
    """Erased interactions per second, from a batch's requests until the next one could begin."""
    erased = sum(sample.interactions for sample in cell.samples)
    return erased / (sum(latency_of(cell)) + sum(sample.advance_s for sample in cell.samples))


def _of(
    samples: Sequence[BatchSample],
    value: Callable[[BatchSample], float],
    summarise: Callable[[list[float]], float],
) -> float:
    """A summary of one value of each batch."""
    return float(summarise([value(sample) for sample in samples]))


def _by_rank(samples: Sequence[BatchSample], value: Callable[[BatchSample], list[float]]) -> list[float]:
    """Medians over the batches of a value that each worker has."""
    return [float(figure) for figure in np.median([value(sample) for sample in samples], axis=0)]
