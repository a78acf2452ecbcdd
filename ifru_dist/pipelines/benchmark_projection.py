"""Fitting the cost model to the cells of a benchmark, checking it on others, and projecting to more workers."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from ifru_dist.pipelines.benchmark_cells import BatchSample, Cell
from ifru_dist.pipelines.benchmark_model import (
    MIN_POINTS,
    CostModel,
    Fabric,
    Pattern,
    Point,
    Work,
    fewest_seconds,
    fit_costs,
    fit_growth,
    relative_error,
    steps,
)
from ifru_dist.pipelines.benchmark_spread import Spread

_CALLS = 2
"""Calls of the coordinator until a batch is committed: one finds the examples, one solves."""
_LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of workers among which the end of scaling is looked for."""


def cost_model_report(cells: Sequence[Cell], spread: Spread, project_to: Sequence[int]) -> dict[str, Any]:
    """The model, its errors and its projections; or the reason why there is none.

    Only cells whose workers had cores of their own are used: others tell nothing about waiting. Every second one, as
    on a chessboard of workers and batch sizes, is kept for the check.
    """
    usable = [cell for cell in cells if cell.workers > 0 and cell.samples and not cell.oversubscribed]
    devices = dict.fromkeys(cell.device for cell in usable)
    models = {
        device: _of_device([cell for cell in usable if cell.device == device], spread, project_to) for device in devices
    }
    found = {device: model for device, model in models.items() if model is not None}
    return {"devices": found, "reason": None if found else _REASON}


_PATTERNS: tuple[Pattern, ...] = ("ring", "tree")
_REASON = (
    "needs batches of two sizes by two numbers of workers (not 0), each with a core of its own, so that some can be "
    f"fitted (at least {MIN_POINTS} batches) and others checked"
)


def _of_device(cells: Sequence[Cell], spread: Spread, project_to: Sequence[int]) -> dict[str, Any] | None:
    """The model of one kind of device; None where too little was measured."""
    fitted, checked = _chessboard(cells)
    if len({cell.workers for cell in cells}) < 2 or not checked or all(cell.workers < 2 for cell in fitted):
        return None
    works = _Works(cells, spread)
    points = [point for cell in fitted for point in works.points(cell)]
    if len(points) < MIN_POINTS:
        return None
    largest = max(cells, key=lambda cell: (cell.batch_size, cell.workers))
    report: dict[str, Any] = {"batch_size": largest.batch_size, "patterns": {}}
    report["interactions"] = fmean(sample.interactions for sample in largest.samples)
    for pattern in _PATTERNS:
        model = fit_costs(points, _fabric(cells, pattern))
        errors = [_error(model, cell, works, "fit") for cell in fitted]
        errors += [_error(model, cell, works, "check") for cell in checked]
        report["patterns"][pattern] = {
            "coefficients": asdict(model),
            "cells": sorted(errors, key=lambda row: (row["batch_size"], row["workers"])),
            "worst_check_error": max(abs(row["relative_error"]) for row in errors if row["used_for"] == "check"),
            "projection": _projection(model, largest, works, project_to),
        }
    return report


def _chessboard(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Cells to fit and cells to check: fields of two colours on a board of workers and batch sizes."""
    workers = sorted({cell.workers for cell in cells})
    sizes = sorted({cell.batch_size for cell in cells})
    colours: tuple[list[Cell], list[Cell]] = ([], [])
    for cell in cells:
        colours[(workers.index(cell.workers) + sizes.index(cell.batch_size)) % 2].append(cell)
    return colours


def _error(model: CostModel, cell: Cell, works: "_Works", used_for: str) -> dict[str, Any]:
    """How far the model is from a cell's median."""
    points = works.points(cell)
    return {
        "workers": cell.workers,
        "batch_size": cell.batch_size,
        "used_for": used_for,
        "measured_s": median(point.seconds for point in points),
        "modelled_s": median(model.seconds(point.work) for point in points),
        "relative_error": relative_error(model, points),
    }


def _fabric(cells: Sequence[Cell], pattern: Pattern) -> Fabric:
    """What was timed by itself, before the batches."""
    calls: dict[float, list[float]] = {}
    latency: dict[float, list[float]] = {}
    for cell in cells:
        calls.setdefault(cell.workers, []).append(cell.call_s)
        if cell.workers > 1:
            latency.setdefault(steps(cell.workers, pattern), []).extend(probe.latency_s for probe in cell.probes)
    speeds = [probe.bytes_per_s for cell in cells for probe in cell.probes if probe.bytes_per_s is not None]
    return Fabric(
        pattern=pattern,
        latency=fit_growth({count: median(seconds) for count, seconds in latency.items()}),
        call=fit_growth({workers: median(seconds) for workers, seconds in calls.items()}),
        bytes_per_s=median(speeds) if speeds else None,
    )


def _projection(model: CostModel, cell: Cell, works: "_Works", project_to: Sequence[int]) -> dict[str, Any]:
    """What the batches of a cell would take with other numbers of workers, and where more of them end to help."""
    ladder = sorted({*_LADDER, *project_to, cell.workers})
    parts = {workers: works.projected(model, cell, workers) for workers in ladder}
    seconds = {workers: sum(by_cause.values()) for workers, by_cause in parts.items()}
    best = fewest_seconds(seconds)
    return {
        "by_workers": [
            {
                "workers": workers,
                "seconds": seconds[workers],
                "parts_s": parts[workers],
                "partitions": works.spread.partitions(workers),
            }
            for workers in sorted(set(project_to))
        ],
        "curve": [{"workers": workers, "seconds": seconds[workers]} for workers in ladder],
        "scaling_ends_at_workers": best if best < max(ladder) else None,
        "fewest_seconds": seconds[best],
    }


class _Works:
    """What measured batches ask of any number of workers."""

    def __init__(self, cells: Sequence[Cell], spread: Spread) -> None:
        """Learn from the batches how many bytes an arriving row stands for, over all exchanges of a batch."""
        self.spread = spread
        sent = [
            sample.gathered_bytes / rows
            for cell in cells
            for sample in cell.samples
            if (rows := int(spread.received_rows(sample.endpoints, cell.workers).sum())) > 0
        ]
        self._bytes_per_row = median(sent) if sent else 0.0
        self._known: dict[tuple[int, int], Work] = {}

    def points(self, cell: Cell) -> list[Point]:
        """The batches of a cell, as they were measured."""
        return [
            Point(
                work=self._work(sample, cell.workers),
                seconds=sample.latency_s,
                coordinator_s=sample.coordinator_s + sample.calling_s,
                compute_s=max(sample.busy_s),
                exchange_s=min(sample.exchange_s),
            )
            for sample in cell.samples
        ]

    def projected(self, model: CostModel, cell: Cell, workers: int) -> dict[str, float]:
        """What the batches of a cell would take with so many workers, by cause: the batch in the middle."""
        parts = [model.parts(self._work(sample, workers)) for sample in cell.samples]
        return sorted(parts, key=lambda by_cause: sum(by_cause.values()))[(len(parts) - 1) // 2]

    def _work(self, sample: BatchSample, workers: int) -> Work:
        """What a batch asks of so many workers; found once, as it takes a pass over the interactions."""
        known = self._known.get((id(sample), workers))
        if known is None:
            known = self._known[id(sample), workers] = self._found(sample, workers)
        return known

    def _found(self, sample: BatchSample, workers: int) -> Work:
        """What a batch asks of so many workers."""
        spread, ends = self.spread, sample.endpoints
        share = spread.batch_share(ends, workers)
        of_residuals = spread.graph_share(workers) if spread.whole_graph else share
        return Work(
            workers=workers,
            interactions=sample.interactions,
            held=spread.held_edges(workers),
            reads=sample.product_reads * share + sample.residual_reads * of_residuals,
            exchanges=sample.exchanges,
            received_bytes=float(spread.received_rows(ends, workers).max()) * self._bytes_per_row,
            calls=_CALLS,
        )
