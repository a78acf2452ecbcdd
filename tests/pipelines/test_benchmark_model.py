"""The cost model finds coefficients that are known, and behaves as costs do."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.pipelines.benchmark_model import (
    CostModel,
    Fabric,
    Growth,
    Point,
    Work,
    fewest_seconds,
    fit_costs,
    fit_growth,
    relative_error,
    steps,
)

FABRIC = Fabric(pattern="ring", latency=Growth(1e-4, 2e-4), call=Growth(1e-3, 5e-4), bytes_per_s=1e9)
TRUE = CostModel(
    base_s=0.02,
    per_interaction_s=3e-6,
    start_s=0.01,
    per_held_s=1e-9,
    per_read_s=4e-8,
    wait_s=3e-5,
    fabric=FABRIC,
)
FITTED = ("base_s", "per_interaction_s", "start_s", "per_held_s", "per_read_s", "wait_s")
CAUSES = ["interactions", "held", "reads", "exchanges", "received_bytes"]
amounts = st.floats(0, 1e6)


def work(workers: int, interactions: float = 1_000, reads: float = 1e7) -> Work:
    return Work(
        workers=workers,
        interactions=interactions,
        held=1e7 / workers,
        reads=reads / workers,
        exchanges=100,
        received_bytes=1e6 * (workers - 1) / workers,
        calls=2,
    )


def point(each: Work, factor: float = 1.0) -> Point:
    parts = TRUE.parts(each)
    return Point(
        work=each,
        seconds=TRUE.seconds(each) * factor,
        coordinator_s=parts["coordinator"] * factor,
        compute_s=parts["compute"] * factor,
        exchange_s=parts["exchange"] * factor,
    )


def points(noise: float = 0.0) -> list[Point]:
    rng = np.random.default_rng(3)
    works = [
        work(workers, size * 30, size * rng.uniform(3e4, 5e4)) for workers in (1, 2, 4) for size in (1, 10, 100, 1000)
    ]
    return [point(each, 1 + noise * rng.uniform(-1, 1)) for each in works]


def test_known_coefficients_are_found_again() -> None:
    found = fit_costs(points(), FABRIC)
    for name in FITTED:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6)


def test_noisy_points_are_explained_to_within_their_noise() -> None:
    found = fit_costs(points(noise=0.05), FABRIC)
    for each in points():
        assert abs(relative_error(found, [each])) < 0.1
    assert found.per_read_s == pytest.approx(TRUE.per_read_s, rel=0.1)


def test_a_cause_that_no_point_has_costs_nothing() -> None:
    without = [dataclasses.replace(each, work=dataclasses.replace(each.work, reads=0.0)) for each in points()]
    assert fit_costs(without, FABRIC).per_read_s == 0


def test_nothing_is_negative_even_where_bytes_alone_would_take_longer_than_was_measured() -> None:
    slow = dataclasses.replace(FABRIC, bytes_per_s=1e3)
    found = fit_costs(points(), slow)
    assert min(getattr(found, name) for name in FITTED) >= 0
    assert found.wait_s == 0


@given(st.integers(1, 600), amounts, amounts, st.sampled_from(CAUSES))
def test_more_of_anything_takes_no_less(workers: int, amount: float, more: float, name: str) -> None:
    less = dataclasses.replace(work(workers), **{name: amount})
    assert TRUE.seconds(dataclasses.replace(less, **{name: amount + more})) >= TRUE.seconds(less) >= TRUE.base_s


@given(st.integers(1, 600), amounts)
def test_the_parts_add_up_to_the_whole(workers: int, reads: float) -> None:
    whole = work(workers, reads=reads)
    by_hand = 0.02 + 3e-6 * 1_000 + 0.01 + (1e-9 * 1e7 + 4e-8 * reads) / workers + 2 * (1e-3 + 5e-4 * workers)
    if workers > 1:
        by_hand += 100 * (3e-5 + 1e-4 + 2e-4 * (workers - 1)) + 1e6 * (workers - 1) / workers / 1e9
    assert TRUE.seconds(whole) == pytest.approx(by_hand, rel=1e-9)
    assert sum(TRUE.parts(whole).values()) == pytest.approx(by_hand, rel=1e-9)


def test_where_scaling_ends_is_where_the_sum_of_a_falling_and_a_growing_part_is_least() -> None:
    # But for what stays: (0.01 + 0.4) / W + (100 * 2e-4 + 2 * 5e-4) * W is least at sqrt(0.41 / 0.021) = 4.42.
    seconds = {workers: TRUE.seconds(work(workers)) for workers in range(1, 65)}
    assert fewest_seconds(seconds) == 4
    assert fewest_seconds({8: 1.0, 2: 1.0, 4: 1.5}) == 2


@given(st.floats(0, 1), st.floats(1e-6, 1))
def test_a_line_is_found_again(fixed: float, each: float) -> None:
    line = Growth(fixed, each)
    found = fit_growth({count: line.at(count) for count in (1, 2, 7)})
    for count in (1, 3, 100):
        assert found.at(count) == pytest.approx(line.at(count), rel=1e-6)


def test_one_count_is_taken_to_be_in_proportion() -> None:
    assert fit_growth({2: 0.5}) == Growth(0.0, 0.25)


def test_seconds_that_fall_with_the_count_make_a_flat_line() -> None:
    found = fit_growth({1: 2.0, 2: 1.0})
    assert found.each == 0
    assert 1.0 < found.fixed < 2.0


@given(st.integers(2, 600))
def test_a_tree_never_takes_more_steps_than_a_ring(workers: int) -> None:
    assert 1 <= steps(workers, "tree") <= steps(workers, "ring")
    tree = dataclasses.replace(TRUE, fabric=dataclasses.replace(FABRIC, pattern="tree"))
    assert tree.seconds(work(workers)) <= TRUE.seconds(work(workers))


def test_two_workers_are_one_step_apart_and_one_is_none_from_itself() -> None:
    assert [steps(workers, "ring") for workers in (1, 2, 8)] == [0, 1, 7]
    assert [steps(workers, "tree") for workers in (1, 2, 8)] == [0, 1, 3]
