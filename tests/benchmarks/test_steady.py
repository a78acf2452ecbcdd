"""Figures of many batches, from batches that are known and from a small workspace."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.steady import Config, measured
from benchmarks.steady_figures import Measured, figures, growth
from benchmarks.steady_processes import delays, longest_delay, resident_bytes
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.measured import round_of, sample
from tests.pipelines.small import one_torch_thread
from tests.pipelines.test_erasing import trained

MIB = 1 << 20


def batch(latency_s: float, *, edges: int = 100, interactions: int = 10, memory: int = MIB) -> Measured:
    """One product and two residuals of ``edges`` and twice as many edges."""
    known = sample(latency_s, interactions=interactions, rounds=[round_of(1, edges)])
    return Measured(sample=known, memory=[memory, 2 * memory], delayed_s=latency_s / 10)


def test_growth_is_that_of_the_middle_of_the_last_hundred() -> None:
    assert growth([1.0] * 99 + [50.0] + [9.0] * 300 + [2.0] * 100) == 2.0
    assert growth([1.0, 1.0, 3.0, 3.0]) == 3.0


def test_figures_of_batches_that_grow() -> None:
    shown = figures([batch(0.1 * (1 + number // 200), memory=MIB * (1 + number // 200)) for number in range(400)])
    assert shown["batches"] == 400
    assert shown["latency_s"]["p50"] == pytest.approx(0.15)
    assert shown["latency_s"]["max"] == shown["latency_s"]["p99"] == pytest.approx(0.2)
    assert shown["p95_over_p50"] == pytest.approx(0.2 / 0.15)
    assert shown["growth"]["latency"] == pytest.approx(2.0)
    assert shown["growth"]["interactions"] == 1.0
    assert shown["growth"]["memory_by_process"] == [2.0, 2.0]
    assert shown["memory_bytes"] == {"first": [MIB, 2 * MIB], "last": [2 * MIB, 4 * MIB]}
    assert shown["phases_s"]["commit"]["growth"] == pytest.approx(2.0)
    assert shown["phases_s"]["advance"]["p50"] == 0.5


def test_what_a_batch_reads_explains_its_latency_and_a_pause_is_not_explained() -> None:
    rng = np.random.default_rng(3)
    edges, erased = rng.integers(1_000, 1_000_000, 300), rng.integers(10, 2_000, 300)
    seconds = 0.05 + 1e-5 * erased + 2e-7 * 5 * edges  # five times: a product, and two residuals of twice as many
    batches = [
        batch(float(each), edges=int(count), interactions=int(gone))
        for each, count, gone in zip(seconds, edges, erased, strict=True)
    ]
    explained = figures(batches)["explained"]
    assert explained["per_batch_s"] == pytest.approx(0.05)
    assert explained["per_interaction_s"] == pytest.approx(1e-5)
    assert explained["per_edge_read_s"] == pytest.approx(2e-7)
    assert explained["share_of_variance"] == pytest.approx(1.0)
    assert explained["p95_over_p50_of_what_is_left"] == pytest.approx(1.0)
    assert explained["over_three_times_the_fit"] == 0
    batches[7] = batch(9.0, edges=1_000, interactions=10)
    shown = figures(batches)
    assert shown["explained"]["over_three_times_the_fit"] == 1
    slowest = shown["slowest"][0]
    assert (slowest["batch"], slowest["latency_s"], slowest["delayed_s"]) == (7, 9.0, pytest.approx(0.9))
    assert shown["slowest"][0]["fitted_s"] < 0.1


def test_a_workspace_stays_as_it_is_while_its_users_are_erased_from_a_copy(tmp_path: Path) -> None:
    version = trained(tmp_path / "ws", {"model": "mf"})
    with one_torch_thread():
        results = measured(Config(batches=6, users=2, warm_up=1, workers=0), version)
    assert (results["batches"], results["failed"]) == (6, 0)
    assert results["left"]["version"] == version.manifest.version + 7
    assert results["left"]["interactions"] < results["data"]["interactions"]
    assert len(results["memory_bytes"]["last"]) == 1  # the worker is in this process
    assert open_version(Workspace(tmp_path / "ws")).manifest == version.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ws", "ws.key"]


def test_resident_memory_is_that_of_a_process() -> None:
    before = resident_bytes(os.getpid())
    held = np.ones(4 * MIB)
    assert 30 * MIB < resident_bytes(os.getpid()) - before < 60 * MIB
    del held


def test_the_longest_delay_is_that_of_one_thread() -> None:
    before = delays([os.getpid()])
    assert before[os.getpid(), os.getpid()] >= 0
    assert longest_delay({(1, 1): 2.0, (1, 2): 1.0}, {(1, 1): 2.5, (1, 2): 4.0, (2, 9): 0.1}) == 3.0
