"""Plots of measurements, with the deviation over the seeds as error bars."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.criteria import Run, spread

_COLOURS = {"original": "tab:red", "unlearned": "tab:blue", "retrained": "tab:green"}
_TITLES = {"auc_or": "AUC_or", "auc_and": "AUC_and"}


def plot_shares(runs: Mapping[str, Mapping[str, Run]], path: Path) -> None:
    """AUC_or and AUC_and of the three models by erased share, as a PNG file.

    Args:
        runs: by case, whose name is the share in per cent ("0.5 %"), and seed.
        path: of the file.
    """
    ordered = dict(sorted(runs.items(), key=lambda case: _percent(case[0])))
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(_TITLES)), _TITLES.items(), strict=True):
        _plot(axes, ordered, key)
        axes.set(title=title, xlabel="interactions erased (%)", ylabel="AUC", xscale="log")
        axes.set_xticks([_percent(name) for name in ordered], [f"{_percent(name):g}" for name in ordered])
        axes.minorticks_off()
        axes.legend()
    figure.savefig(path, format="png", dpi=150)


def _plot(axes: Axes, runs: Mapping[str, Mapping[str, Run]], key: str) -> None:
    """One line for each model, with error bars."""
    shares = [_percent(name) for name in runs]
    for method, colour in _COLOURS.items():
        spreads = [spread(lambda run: run["evaluate"]["methods"][method][key], by.values()) for by in runs.values()]  # noqa: B023
        bars = [point.deviation or 0.0 for point in spreads]
        means = [point.mean for point in spreads]
        axes.errorbar(shares, means, yerr=bars, label=method, color=colour, marker="o", markersize=3, capsize=3)


def _percent(name: str) -> float:
    """The share that a case's name says."""
    return float(name.removesuffix("%"))
