"""What a benchmark writes beside its report: all figures as CSV, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv

from ifru_dist.pipelines.benchmark_cells import Cell
from ifru_dist.pipelines.benchmark_figures import PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS, BATCHES, PLOT = "cells.csv", "batches.csv", "benchmark.png"


def write_cells(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """One line for each cell of a report: its figures, lists as their largest entry."""
    _write_csv(path, [_flat(cell) for cell in cells])


def write_batches(path: Path, cells: Sequence[Cell]) -> None:
    """One line for each measured batch."""
    rows = [
        {"device": cell.device, "workers": cell.workers, "batch_size": cell.batch_size, "batch": number}
        | {"interactions": sample.interactions, "latency_s": sample.latency_s, "busy_latency_s": sample.busy_latency_s}
        | {f"{phase}_s": sample.phases[phase] for phase in PHASES}
        | {"advance_s": sample.advance_s, "bytes_exchanged": sample.bytes_exchanged, "exchanges": sample.exchanges}
        | {"busy_max_s": max(sample.busy_s), "exchange_max_s": max(sample.exchange_s)}
        for cell in cells
        for number, sample in enumerate(cell.samples, start=1)
    ]
    _write_csv(path, rows)


def write_plot(path: Path, report: Mapping[str, Any]) -> str | None:
    """Latency and rate by batch size, and the projection, as a PNG file.

    Returns:
        None, or why there is no plot.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return "no plot: matplotlib is not installed (pip install matplotlib)"
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    cells = [cell for cell in report["cells"] if "latency_s" in cell]
    _plot_latency(left, cells)
    _plot_rate(middle, cells)
    _plot_projection(right, report["cost_model"], cells)
    figure.savefig(path, format="png", dpi=120)
    return None


def _plot_latency(axes: "Axes", cells: Sequence[Mapping[str, Any]]) -> None:
    """p50 with bars up to p99, one line for each gang."""
    for name, group in _by_gang(cells).items():
        p50 = [cell["latency_s"]["p50"] for cell in group]
        bars = [[0.0] * len(p50), [cell["latency_s"]["p99"] - cell["latency_s"]["p50"] for cell in group]]
        axes.errorbar(_sizes(group), p50, yerr=bars, label=name, marker="o", markersize=3, capsize=3)
    _finish(axes, "p50, up to p99", "users of a batch", "seconds")


def _plot_rate(axes: "Axes", cells: Sequence[Mapping[str, Any]]) -> None:
    """Erased interactions per second, one line for each gang."""
    for name, group in _by_gang(cells).items():
        rates = [cell["interactions_per_second"] for cell in group]
        axes.plot(_sizes(group), rates, label=name, marker="o", markersize=3)
    _finish(axes, "rate", "users of a batch", "erased interactions per second")


def _plot_projection(axes: "Axes", models: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    """The modelled seconds by workers, and those of the same batches by the clock."""
    for device, model in models["devices"].items():
        size = model["batch_size"]
        for pattern, fitted in model["patterns"].items():
            curve = fitted["projection"]["curve"]
            workers, seconds = ([point[key] for point in curve] for key in ("workers", "seconds"))
            axes.plot(workers, seconds, "--", label=f"{device}, {size} users: projection, {pattern}s")
        own = [cell for cell in cells if (cell["device"], cell["batch_size"]) == (device, size)]
        seen = [cell for cell in own if cell["workers"] and cell["measured_by"] == "wall"]
        p50 = [cell["latency_s"]["p50"] for cell in seen]
        axes.plot([cell["workers"] for cell in seen], p50, "o", label=f"{device}, {size} users: measured")
    _finish(axes, "projection", "workers", "seconds")


def _by_gang(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Cells by device and number of workers, each by batch size."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: (cell["device"], cell["workers"], cell["batch_size"])):
        by = ", busy time" if cell["measured_by"] == "busy" else ""
        groups.setdefault(f"{cell['device']}, {cell['workers']} workers{by}", []).append(cell)
    return groups


def _sizes(group: Sequence[Mapping[str, Any]]) -> list[int]:
    """Batch sizes of cells."""
    return [cell["batch_size"] for cell in group]


def _finish(axes: "Axes", title: str, across: str, up: str) -> None:
    """Scales and words of a plot."""
    axes.set(title=title, xlabel=across, ylabel=up, xscale="log", yscale="log")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures under joined names; of a list of figures the largest, of other lists their number."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, list):
            numbers = value and all(isinstance(entry, int | float) for entry in value)
            flat[f"{name}.max" if numbers else name] = max(value) if numbers else len(value)
        else:
            flat[name] = value
    return flat


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV; what one of them lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    pa.csv.write_csv(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
