"""Criteria on figures that were measured with several seeds, and the same figures for doing nothing, which must fail.

A run is what one seed gave: the kept reports of its jobs, by name.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Run = Mapping[str, Any]
Figure = Callable[[Run], float | None]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A bound on one figure of a run."""

    name: str
    figure: Figure
    nothing: Figure
    """The same figure for doing nothing."""
    sense: Literal["at most", "at least"] = "at most"
    bound: float
    nothing_beyond: float | None = None
    """What doing nothing must miss; the bound itself where None."""
    control: str = "doing nothing"
    """What stands in the place of doing nothing, where that is what the criterion asks for."""

    def met_by(self, value: float) -> bool:
        """Whether a figure keeps the bound; no number does not."""
        return value <= self.bound if self.sense == "at most" else value >= self.bound

    def failed_by_nothing(self, value: float) -> bool:
        """Whether doing nothing misses its bound; no number does not."""
        bound = self.bound if self.nothing_beyond is None else self.nothing_beyond
        return value > bound if self.sense == "at most" else value < bound


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One figure over the seeds."""

    values: list[float]
    """By seed, in the order of the seeds; not a number where a run has none."""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None for one seed, and where a seed has no figure."""
        known = len(self.values) > 1 and not math.isnan(self.mean)
        return float(np.std(self.values, ddof=1)) if known else None

    def as_record(self) -> dict[str, Any]:
        """The spread as JSON keeps it, which has no form for what is not a number."""
        values = [None if math.isnan(value) else value for value in self.values]
        return {"values": values, "mean": None if None in values else self.mean, "deviation": self.deviation}

    def __str__(self) -> str:
        """Mean and deviation, as tables show them."""
        return f"{self.mean:.4g}" + ("" if self.deviation is None else f" ± {self.deviation:.2g}")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A criterion held against the runs of all seeds."""

    criterion: Criterion
    seeds: list[str]
    figure: Spread
    nothing: Spread

    @property
    def met(self) -> bool:
        """Whether the mean over the seeds keeps the bound."""
        return self.criterion.met_by(self.figure.mean)

    @property
    def seeds_met(self) -> int:
        """Seeds that keep the bound each for itself."""
        return sum(map(self.criterion.met_by, self.figure.values))

    @property
    def nothing_fails(self) -> bool:
        """Whether the criterion tells something: doing nothing misses it."""
        return self.criterion.failed_by_nothing(self.nothing.mean)

    @property
    def note(self) -> str:
        """What a reader must know of doing nothing."""
        control = self.criterion.control
        if not self.nothing_fails:
            return f"PROVES NOTHING: {control} does not fail it"
        return "" if control == "doing nothing" else f"fails it: {control}"

    def as_record(self) -> dict[str, Any]:
        """The point as JSON keeps it."""
        texts = {key: value for key, value in asdict(self.criterion).items() if not callable(value)}
        judged = {"met": self.met, "seeds_met": self.seeds_met, "nothing_fails": self.nothing_fails, "note": self.note}
        return {
            **texts,
            "seeds": self.seeds,
            "figure": self.figure.as_record(),
            "nothing": self.nothing.as_record(),
            **judged,
        }

    def as_row(self) -> dict[str, str]:
        """The point as a row of a table."""
        return {
            "criterion": f"{self.criterion.name}: {self.criterion.sense} {self.criterion.bound:g}",
            "by seed": ", ".join(
                f"{seed}: {value:.4g}" for seed, value in zip(self.seeds, self.figure.values, strict=True)
            ),
            "mean ± deviation": str(self.figure),
            "met": f"{'yes' if self.met else 'NO'} ({self.seeds_met} of {len(self.seeds)} seeds)",
            "doing nothing": str(self.nothing),
            "note": self.note,
        }


def judge(criterion: Criterion, runs: Mapping[str, Run]) -> Judged:
    """Hold a criterion against the runs by seed."""
    return Judged(
        criterion=criterion,
        seeds=list(runs),
        figure=spread(criterion.figure, runs.values()),
        nothing=spread(criterion.nothing, runs.values()),
    )


def spread(figure: Figure, runs: Iterable[Run]) -> Spread:
    """A figure over runs."""
    values = [figure(run) for run in runs]
    return Spread(values=[math.nan if value is None else float(value) for value in values])


def figures_table(rows: Mapping[str, Mapping[str, Figure]], runs: Mapping[str, Run]) -> list[dict[str, str | None]]:
    """Rows of a table with mean and deviation of each figure over the seeds; None where a row lacks a column."""
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    return [
        {"row": name, **{column: _shown(row.get(column), runs) for column in columns}} for name, row in rows.items()
    ]


def _shown(figure: Figure | None, runs: Mapping[str, Run]) -> str | None:
    """A figure over the seeds as a cell."""
    if figure is None:
        return None
    shown = spread(figure, runs.values())
    return None if math.isnan(shown.mean) else str(shown)
