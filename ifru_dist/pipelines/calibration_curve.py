"""How close each damping comes to retraining, and which to try next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from operator import itemgetter

import numpy as np

from ifru_dist.errors import SolveError

_NEAR_BEST = 1.08
"""Gaps of the lowest temperature up to so many times the smallest are near it."""

_RANKS_ALIKE = 0.1
"""Mean log ranks that differ by less are about the same."""

_SAME = 0.01
"""Dampings whose logarithms differ by less are not told apart."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The sample unlearned with one damping."""

    damping: float
    temperature: float
    gap: float | None
    """Mean |score - retrained score| on the sample; None where there is no usable update, or one whose scores are not
    finite."""
    relative_gap: float | None
    """The same as a share of the gap of doing nothing."""
    status: str
    iterations: list[int]
    influence_residual: float
    logloss_sample: float | None
    rank_shift: float | None = None
    """Mean log rank of the sample less the retrained model's, where a model is judged by ranks."""

    @property
    def distance(self) -> float | None:
        """What is least at the best damping."""
        return self.gap if self.rank_shift is None else abs(self.rank_shift)

    @property
    def astray(self) -> bool:
        """Whether its scores are further from the retrained model's than those of doing nothing."""
        return self.relative_gap is not None and self.relative_gap >= 1

    def closer_than(self, distance: float) -> bool:
        """Whether it comes closer to retraining than doing nothing, which has this distance."""
        return not self.astray and self.distance is not None and self.distance < distance


def _usable(curve: Sequence[CurvePoint]) -> list[tuple[float, CurvePoint]]:
    """The points that have a distance which can be compared, behind it."""
    distances = [(point.distance, point) for point in curve]
    return [(distance, point) for distance, point in distances if distance is not None and math.isfinite(distance)]


def best_point(curve: Sequence[CurvePoint]) -> CurvePoint:
    """The point of the smallest distance that has not gone astray; of equal ones that which moves rows least.

    Args:
        curve: By damping, ascending.

    Raises:
        SolveError: no point is usable.
    """
    usable = _usable(curve)
    if not usable:
        tried = ", ".join(f"{point.damping:g} ({point.status})" for point in curve)
        raise SolveError(f"no damping gives finite scores ({tried}): give larger --dampings; nothing was committed")
    straight = [entry for entry in usable if not entry[1].astray]
    return min(reversed(straight or usable), key=itemgetter(0))[1]


def dampings_between(curve: Sequence[CurvePoint], count: int) -> set[float]:
    """``count`` dampings between the best one and each of its neighbours, by equal factors."""
    usable = [point.damping for _, point in _usable(curve)]
    at = usable.index(best_point(curve).damping)
    near = usable[max(0, at - 1) : at + 2]
    return {float(value) for low, high in pairwise(near) for value in np.geomspace(low, high, count + 2)[1:-1]}


def damping_at_vertex(curve: Sequence[CurvePoint]) -> float | None:
    """The damping at the vertex of the parabola, by log damping, through the best point and its neighbours.

    None where the best one has no neighbour on either side, or where the parabola's vertex is (nearly) at one of them.
    """
    usable = _usable(curve)
    at = [point.damping for _, point in usable].index(best_point(curve).damping)
    if not 0 < at < len(usable) - 1:
        return None
    (left, low), (least, middle), (right, high) = usable[at - 1 : at + 2]
    below, above = math.log(low.damping / middle.damping), math.log(high.damping / middle.damping)
    fall, rise = (left - least) / below, (right - least) / above  # mean slopes on either side
    bend = (rise - fall) / (above - below)
    if bend <= 0:
        return None
    vertex = middle.damping * math.exp(0.5 * (below - fall / bend))
    new = all(abs(math.log(vertex / point.damping)) > _SAME for point in (low, middle, high))
    return vertex if new and low.damping < vertex < high.damping else None


def damping_beyond(curve: Sequence[CurvePoint]) -> float | None:
    """The damping to try next where the best is the first or the last of several: further out by the last factor."""
    tried, best = [point.damping for point in curve], best_point(curve).damping
    if len(tried) < 2 or best not in (tried[0], tried[-1]):
        return None
    further = tried[0] * (tried[0] / tried[1]) if best == tried[0] else tried[-1] * (tried[-1] / tried[-2])
    return further if 0 < further < math.inf else None


def best_curve(curves: Sequence[list[CurvePoint]]) -> list[CurvePoint]:
    """The curve whose best point has the smallest gap, unless the first one, of the lowest temperature, comes near it.

    A temperature is fitted to one sample, and where it gains little there it may lose elsewhere. Of models that are
    judged by ranks only the curves whose best shift is about the smallest are compared by their gaps.

    Args:
        curves: by temperature, ascending.

    Raises:
        SolveError: no point of any curve is usable.
    """
    usable = [curve for curve in curves if _usable(curve)]
    if not usable:
        best_point([point for curve in curves for point in curve])
    best = [best_point(curve) for curve in usable]
    if best[0].rank_shift is not None:
        least = min(point.distance for point in best if point.distance is not None)
        alike = [abs(point.rank_shift or 0.0) <= least + _RANKS_ALIKE for point in best]
        usable, best = list(compress(usable, alike)), list(compress(best, alike))
    gaps = [point.gap for point in best if point.gap is not None]
    return usable[0] if gaps[0] <= _NEAR_BEST * min(gaps) else usable[gaps.index(min(gaps))]


def curve_notes(curve: Sequence[CurvePoint], best: CurvePoint, *, usable: bool) -> list[str]:
    """What a reader should know of the result; ``usable``: whether it is closer to retraining than doing nothing."""
    notes = [
        f"the best damping is the {end} one that was tried: give --dampings further out"
        for end, point in (("smallest", curve[0]), ("largest", curve[-1]))
        if best is point
    ]
    if len(curve) == 1:
        notes = ["only one damping was tried: give several --dampings"]
    if not usable:
        notes.append(
            "no damping that was tried comes closer to retraining than doing nothing, so none is kept: give larger "
            "--dampings or a larger --share"
        )
    return notes
