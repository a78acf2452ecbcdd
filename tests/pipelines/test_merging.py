"""The merge of the workers' updates: each value at its row, and no second copy of them."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ifru_dist.influence.update import Outcome
from ifru_dist.models.initial import reset_rows
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.merging import merged_update
from ifru_dist.workspace.store import Workspace
from tests.pipelines.small import SIZES, small_workspace
from tests.workspace.datasets import random_dataset, random_embeddings, trained_workspace


def share(rows: np.ndarray, values: np.ndarray, emptied: list[int]) -> Outcome:
    """A worker's share of a batch, of which only these three fields are read."""
    return Outcome(
        rows=torch.from_numpy(rows),
        values=torch.from_numpy(values),
        emptied=torch.tensor(emptied, dtype=torch.int64),
        dense={},
        rounds=[],
        newton_steps=0,
        stationarity=0.0,
        relative_residual=0.0,
        status="converged",
        objective_change=0.0,
        influence_residual=0.0,
    )


def test_values_of_workers_and_of_reset_rows_come_in_row_order(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    values = np.random.default_rng(1).normal(size=(sum(SIZES), 4)).astype(np.float32)
    first, second = np.array([7, 2, 69, 11]), np.array([3, 68, 0])
    outcomes = [share(first, values[first], [40]), share(second, values[second], [])]
    update = merged_update(version, outcomes, np.array([5, 40]))
    assert update.rows.tolist() == [0, 2, 3, 5, 7, 11, 40, 68, 69]
    spec = version.model.spec
    for table, (row, number) in {"user": (5, 5), "item": (40, 0)}.items():
        values[row] = reset_rows(table, [number], spec.dim, spec.init_std, version.model.seed)[0]
    assert update.values.dtype == np.float32
    assert np.array_equal(update.values, values[update.rows])
    assert update.dense is None


def test_a_row_of_a_further_field_is_reset_by_its_table_and_number_to_the_width_of_the_model(tmp_path: Path) -> None:
    data, wide = random_dataset(1, (13, 9, 3)), random_embeddings(1, 25, dim=5)
    version = trained_workspace(Workspace(tmp_path / "ws"), data, wide)
    spec = ModelSpec(name="fm", dim=4, fields=3)
    version = replace(version, manifest=replace(version.manifest, model=replace(version.model, spec=spec)))
    update = merged_update(version, [share(np.array([3]), wide[[3]], [24, 22])], np.array([13]))
    assert update.rows.tolist() == [3, 13, 22, 24]
    for value, table, number in zip(update.values[1:], ("item", "hour", "hour"), (0, 0, 2), strict=True):
        assert np.array_equal(value, reset_rows(table, [number], 5, spec.init_std, version.model.seed)[0])


def test_the_values_are_copied_once(tmp_path: Path) -> None:
    wide = np.zeros((sum(SIZES), 256))
    version = small_workspace(tmp_path / "ws", embeddings=wide, dim=256)
    order, size = np.random.default_rng(1).permutation(20_000), 20_000 * 256 * 4
    outcomes = [share(part, np.ones((len(part), 256), np.float32), []) for part in np.array_split(order, 2)]
    tracemalloc.start()
    merged_update(version, outcomes, np.empty(0, np.int64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < peak < 1.5 * size  # beside them a byte for each value, to see that it is finite


def test_a_forgotten_row_is_reset_also_where_the_solver_moved_it(tmp_path: Path) -> None:
    # Under bpr an item that is erased wholly stays a negative of others, so that workers solve for it.
    version = small_workspace(tmp_path / "ws")
    rows = np.random.default_rng(2).permutation(sum(SIZES))
    values = np.ones((len(rows), 4), np.float32)
    forgotten = np.arange(SIZES[0], SIZES[0] + 20)
    update = merged_update(version, [share(part, values[part], []) for part in np.array_split(rows, 3)], forgotten)
    assert update.rows.tolist() == list(range(sum(SIZES)))
    spec = version.model.spec
    reset = reset_rows("item", range(20), spec.dim, spec.init_std, version.model.seed)
    assert np.array_equal(update.values[forgotten], reset)
    assert bool((np.delete(update.values, forgotten, axis=0) == 1).all())
