"""Figures from batches that are known."""

import dataclasses

import numpy as np
import pytest

from ifru_dist.pipelines.benchmark_figures import cell_figures, percentiles, strong_scaling, weak_scaling
from tests.pipelines.measured import cell, sample


def test_figures_of_a_cell() -> None:
    seconds = [1.0, 2.0, 3.0, 4.0, 5.0]
    figures = cell_figures(cell(1, 7, [sample(each) for each in seconds]), retrain_s=30.0, fine_tune_s=None)
    assert figures["measured_by"] == "wall"
    assert figures["latency_s"] == pytest.approx({"p50": 3.0, "p95": 4.8, "p99": 4.96, "mean": 3.0})
    assert figures["wall_s"] == figures["latency_s"]
    assert figures["interactions_per_second"] == pytest.approx(50 / (15 + 5 * 0.5))
    assert figures["phases_s"]["commit"] == pytest.approx(1.0)
    assert figures["phases_s"]["advance"] == 0.5
    assert figures["busy_s"] == pytest.approx([0.3])
    assert figures["speed_up"] == {"retrain": pytest.approx(10.0), "fine_tune": None}
    assert figures["memory_bytes"] == {"workers": [1 << 20], "devices": [0], "coordinator": 1 << 21}


def test_percentiles_are_numpys() -> None:
    seconds = np.random.default_rng(0).random(57).tolist()
    assert list(percentiles(seconds).values()) == pytest.approx(
        [*np.percentile(seconds, [50, 95, 99]), np.mean(seconds)]
    )


def test_workers_that_share_cores_are_judged_by_busy_time() -> None:
    crowded = cell(4, 7, [sample(3.0, workers=4, calling_s=0.05)], cores=2)
    assert crowded.oversubscribed
    assert not cell(2, 7, [sample(3.0, workers=2)], cores=2).oversubscribed
    figures = cell_figures(crowded, retrain_s=None, fine_tune_s=2.1)
    # A third is the coordinator's own, the busiest worker computes for 0.4 times the latency.
    assert figures["latency_s"]["p50"] == pytest.approx(1.0 + 0.05 + 1.2)
    assert (figures["measured_by"], figures["wall_s"]["p50"]) == ("busy", 3.0)
    assert figures["speed_up"]["fine_tune"] == pytest.approx(2.1 / 2.25)


def test_a_cell_whose_batches_were_all_disturbed_has_no_figures() -> None:
    empty = dataclasses.replace(cell(2, 7, []), disturbed=["a worker was lost"])
    figures = cell_figures(empty, retrain_s=1.0, fine_tune_s=1.0)
    assert (figures["batches"], figures["failed_attempts"]) == (0, ["a worker was lost"])
    assert "latency_s" not in figures
    assert strong_scaling([empty, cell(1, 7, [sample(1.0)])]) == []


def test_strong_scaling_is_over_the_fewest_workers_of_the_same_batch() -> None:
    cells = [
        cell(4, 7, [sample(2.0, workers=4)]),
        cell(2, 7, [sample(3.0, workers=2)]),
        cell(0, 7, [sample(1.0)]),
        cell(2, 8, [sample(1.0, workers=2)]),
        cell(2, 7, [sample(9.0, workers=2)], device="cuda"),
    ]
    rows = strong_scaling(cells)
    assert [(row["workers"], row["speed_up"], row["efficiency"]) for row in rows] == [(2, 1.0, 1.0), (4, 1.5, 0.75)]
    assert {(row["batch_size"], row["device"], row["measured_by"]) for row in rows} == {(7, "cpu", "wall")}


def test_busy_time_is_compared_with_busy_time() -> None:
    cells = [cell(1, 7, [sample(3.0)], cores=2), cell(4, 7, [sample(3.0, workers=4)], cores=2)]
    rows = strong_scaling(cells)
    assert [row["measured_by"] for row in rows] == ["busy", "busy"]
    assert [row["latency_p50_s"] for row in rows] == pytest.approx([1.0 + 0.3, 1.0 + 1.2])


def test_weak_scaling_takes_the_batches_that_grow_with_the_workers() -> None:
    cells = [
        cell(workers, size, [sample(seconds, workers=workers)])
        for workers, size, seconds in [(1, 5, 1.0), (2, 5, 0.8), (1, 10, 2.0), (2, 10, 1.25)]
    ]
    rows = weak_scaling(cells, 5)
    assert [(row["workers"], row["efficiency"]) for row in rows] == [(1, 1.0), (2, 0.8)]
    assert weak_scaling(cells, None) == []
