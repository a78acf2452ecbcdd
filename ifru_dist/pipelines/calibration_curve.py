"""How close each damping comes to retraining, and which to try next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import numpy as np

from ifru_dist.errors import SolveError

_NEAR_BEST = 1.1
"""Gaps of the lowest temperature up to so many times the smallest are near it."""


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


def _usable(curve: Sequence[CurvePoint]) -> list[tuple[float, CurvePoint]]:
    """The points that have a gap which can be compared, behind it."""
    return [(point.gap, point) for point in curve if point.gap is not None and math.isfinite(point.gap)]


def best_point(curve: Sequence[CurvePoint]) -> CurvePoint:
    """The point of the smallest gap; of equal ones that which moves rows least.

    Args:
        curve: By damping, ascending.

    Raises:
        SolveError: no point is usable.
    """
    usable = _usable(curve)
    if not usable:
        tried = ", ".join(f"{point.damping:g} ({point.status})" for point in curve)
        raise SolveError(f"no damping gives finite scores ({tried}): give larger --dampings; nothing was committed")
    return min(reversed(usable), key=itemgetter(0))[1]


def dampings_between(curve: Sequence[CurvePoint], count: int) -> set[float]:
    """``count`` dampings between the best one and each of its neighbours, by equal factors."""
    usable = [point.damping for _, point in _usable(curve)]
    at = usable.index(best_point(curve).damping)
    near = usable[max(0, at - 1) : at + 2]
    return {float(value) for low, high in pairwise(near) for value in np.geomspace(low, high, count + 2)[1:-1]}


def damping_beyond(curve: Sequence[CurvePoint]) -> float | None:
    """The damping to try next where the best is the first or the last of several: further out by the last factor."""
    tried, best = [point.damping for point in curve], best_point(curve).damping
    if len(tried) < 2 or best not in (tried[0], tried[-1]):
        return None
    further = tried[0] * (tried[0] / tried[1]) if best == tried[0] else tried[-1] * (tried[-1] / tried[-2])
    return further if 0 < further < math.inf else None


def best_curve(curves: Sequence[list[CurvePoint]]) -> list[CurvePoint]:
    """The curve with the point of the smallest gap, unless the first one, of the lowest temperature, comes near it.

    A temperature is fitted to one sample, and where it gains little there it may lose elsewhere.

    Args:
        curves: by temperature, ascending.

    Raises:
        SolveError: no point of any curve is usable.
    """
    usable = [curve for curve in curves if _usable(curve)]
    if not usable:
        best_point([point for curve in curves for point in curve])
    gaps = [_usable([best_point(curve)])[0][0] for curve in usable]
    return usable[0] if gaps[0] <= _NEAR_BEST * min(gaps) else usable[gaps.index(min(gaps))]


def curve_notes(curve: Sequence[CurvePoint], best: CurvePoint) -> list[str]:
    """What a reader should know of the result."""
    notes = [
        f"the best damping is the {end} one that was tried: give --dampings further out"
        for end, point in (("smallest", curve[0]), ("largest", curve[-1]))
        if best is point
    ]
    if len(curve) == 1:
        notes = ["only one damping was tried: give several --dampings"]
    if best.relative_gap is not None and best.relative_gap >= 1:
        notes.append(
            "no damping that was tried comes closer to retraining than doing nothing, so none is kept: give larger "
            "--dampings or a larger --share"
        )
    return notes
