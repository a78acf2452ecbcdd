"""Which damping is the best of a curve, which to try next, and what is said of it."""

import dataclasses
import itertools
import math

import pytest

from ifru_dist.errors import SolveError
from ifru_dist.pipelines.calibration_curve import (
    CurvePoint,
    best_curve,
    best_point,
    curve_notes,
    damping_at_vertex,
    damping_beyond,
    dampings_between,
)


def point(damping: float, gap: float | None, do_nothing: float = 2.0, temperature: float = 1.0) -> CurvePoint:
    relative = None if gap is None else gap / do_nothing
    return CurvePoint(
        damping=damping,
        temperature=temperature,
        gap=gap,
        relative_gap=relative,
        status="converged" if gap is not None else "not_finite",
        iterations=[1],
        influence_residual=0.5,
        logloss_sample=gap,
    )


def test_the_best_damping_is_refined_between_its_usable_neighbours() -> None:
    curve = [point(0.1, None), point(0.2, 1.5), point(0.4, 1.0), point(1.6, 1.0), point(3.2, 1.9)]
    assert best_point(curve).damping == 1.6  # of equal ones that which moves rows least
    assert sorted(dampings_between(curve, 1)) == pytest.approx([0.8, 3.2 / 2**0.5])
    assert sorted(dampings_between(curve[:3], 3)) == pytest.approx([0.2 * 2 ** (k / 4) for k in (1, 2, 3)])
    assert dampings_between(curve, 0) == dampings_between(curve[1:2], 3) == set()
    assert curve_notes(curve, curve[3], usable=True) == []


def test_the_vertex_is_that_of_the_parabola_through_the_best_point_and_its_neighbours() -> None:
    def gap(damping: float) -> float:
        return 1 + 3 * math.log(damping / 1.07) ** 2

    curve = [point(damping, gap(damping)) for damping in (0.2, 0.7, 1.0, 1.5, 4.0)]
    assert damping_at_vertex(curve) == pytest.approx(1.07)
    assert damping_at_vertex([*curve[:3], point(1.07, gap(1.07)), *curve[3:]]) is None  # nothing new
    assert damping_at_vertex(curve[:2]) is None  # at an end
    assert damping_at_vertex([point(0.5, 1.0), point(1.0, 1.0), point(2.0, 1.0)]) is None  # flat
    with_failures = [point(0.1, None), *curve[1:4], point(2.0, None)]
    assert damping_at_vertex(with_failures) == pytest.approx(1.07)


@pytest.mark.parametrize(("best", "end"), [(0, "smallest"), (2, "largest")])
def test_a_best_damping_at_an_end_of_the_grid_is_told_with_the_remedy(best: int, end: str) -> None:
    curve = [point(damping, 1.0 + (position != best)) for position, damping in enumerate((0.1, 0.2, 0.4))]
    assert curve_notes(curve, best_point(curve), usable=True) == [
        f"the best damping is the {end} one that was tried: give --dampings further out"
    ]
    useless = [dataclasses.replace(entry, relative_gap=1.01) for entry in curve]
    assert "closer to retraining than doing nothing" in curve_notes(useless, useless[1], usable=False)[0]


def test_a_grid_is_extended_where_its_best_damping_is_an_end() -> None:
    falling = [point(0.1, 3.0), point(0.2, 2.0), point(0.8, 1.0)]
    assert damping_beyond(falling) == pytest.approx(3.2)
    rising = [point(0.1, 1.0), point(0.2, 2.0), point(0.8, 3.0)]
    assert damping_beyond(rising) == pytest.approx(0.05)
    assert damping_beyond([point(0.1, 3.0), point(0.2, 1.0), point(0.8, 2.0)]) is None
    assert damping_beyond([point(0.1, 3.0)]) is None
    only = point(0.1, 1.0)
    assert curve_notes([only], only, usable=True) == ["only one damping was tried: give several --dampings"]


def test_a_gap_that_is_not_finite_is_never_the_best_in_any_order() -> None:
    entries = [point(0.1, float("nan")), point(0.2, 1.5), point(0.4, 1.0), point(0.8, float("inf")), point(1.6, None)]
    for curve in itertools.permutations(entries):
        assert best_point(curve).gap == 1.0
    assert best_point([point(0.1, 0.0), point(0.2, 1.0)]).damping == 0.1
    assert sorted(dampings_between(entries, 1)) == pytest.approx([0.2 * 2**0.5])


def test_a_curve_without_a_usable_point_has_no_best() -> None:
    curve = [point(0.1, None), point(0.2, float("nan"))]
    with pytest.raises(SolveError, match=r"no damping gives finite scores \(0.1 \(not_finite\), 0.2 \(converged\)\)"):
        best_point(curve)


def test_the_best_of_several_curves_has_the_smallest_gap_unless_the_lowest_temperature_comes_near_it() -> None:
    cool = [point(0.1, 2.0), point(0.2, 1.0), point(0.4, None)]
    warm = [point(0.1, 0.9, temperature=1.5), point(0.2, float("nan"), temperature=1.5)]
    hot = [point(0.1, 3.0, temperature=2.0), point(0.2, 0.9, temperature=2.0)]
    unusable = [point(0.1, None, temperature=3.0), point(0.2, float("nan"), temperature=3.0)]
    assert best_curve([cool, warm, hot]) is warm
    assert best_curve([unusable, cool]) is cool
    assert best_curve([cool, hot]) is hot
    nearly, both = [point(0.1, 0.971)], [point(0.1, 0.95, temperature=1.25)]
    near = [point(0.1, 0.973)]  # 1.08 * 0.9 = 0.972
    assert best_curve([near, warm, hot]) is warm
    assert best_curve([nearly, warm, hot]) is nearly
    assert best_curve([cool, both, warm, hot]) is warm  # only the lowest temperature need not be the best
    assert best_curve([nearly, nearly]) is nearly


def test_a_model_judged_by_ranks_is_best_where_its_ranks_are_those_of_retraining_whatever_its_gap() -> None:
    def ranked(damping: float, gap: float, shift: float, temperature: float = 1.0) -> CurvePoint:
        return dataclasses.replace(point(damping, gap, 5.0, temperature), rank_shift=shift)

    curve = [ranked(1, 5.0, 0.05), ranked(2, 4.0, 0.1), ranked(4, 3.0, -0.4)]
    assert best_point(curve).damping == 2  # that with 1 has gone astray: doing nothing has the gap 5
    assert best_point(curve).closer_than(0.2)
    assert not best_point(curve).closer_than(0.1)
    assert best_point(curve[:1]).damping == 1
    assert not best_point(curve[:1]).closer_than(0.2)
    hotter = [ranked(4, 3.5, 0.2, 2.0), ranked(8, 3.0, -0.2, 2.0)]
    assert best_curve([curve, hotter]) is hotter  # of equal ones that which moves rows least, whose gap is smaller
    assert best_curve([curve, [ranked(8, 3.9, 0.0, 2.0)]]) is curve


def test_curves_without_a_usable_point_have_no_best() -> None:
    curves = [[point(0.1, None)], [point(0.2, float("inf"), temperature=2.0)]]
    with pytest.raises(SolveError, match=r"no damping gives finite scores \(0.1 \(not_finite\), 0.2 \(converged\)\)"):
        best_curve(curves)
