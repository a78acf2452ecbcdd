"""Appending to a version: old rows keep their places, new ones lie behind them, and nothing erased is written anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.interactions import Interactions
from ifru_dist.models.initial import unseen_rows
from ifru_dist.workspace.appending import appended_data, grown, grown_layout, moved, rows_in
from ifru_dist.workspace.commits import commit_append, commit_erasure
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace

SIZES = {2: (13, 9), 3: (7, 5, 3)}
OLD, NEW = Layout(partitions=4, sizes=(3, 2), tables=("user", "item")), Layout(partitions=4, sizes=(5, 3))


def by_id(version: Version, data: Interactions) -> list[tuple[Any, ...]]:
    """Interactions as external ids and label."""
    ids = [external for table in range(len(version.layout.tables)) for external in version.ids(table).to_pylist()]
    return [(*(ids[row] for row in rows), float(label)) for rows, label in zip(data.rows, data.labels, strict=True)]


def appended(version: Version, fields: int) -> Version:
    """Two new users, an item and a value of each field; an example of them, and one of an old user."""
    texts = pa.array(["new"], pa.large_string())
    ids = (pa.array([1001, 1002], pa.int64()), texts, *[pa.array([77], pa.int64())] * (fields - 2))
    layout = grown_layout(version.layout, tuple(map(len, ids)))
    last = [table.stop - 1 for table in map(layout.table_range, range(fields))]
    rows = np.array([last, [0, *last[1:]]])
    data = appended_data(version, ids, Interactions(rows, np.array([1, 0], np.float32)))
    with version.workspace.lock("test"):
        commit_append(version, data, {})
    return open_version(version.workspace, check_content=True)


@pytest.mark.parametrize("fields", [2, 3])
def test_what_was_there_and_what_is_new_is_found_by_its_ids(tmp_path: Path, fields: int) -> None:
    dataset = random_dataset(3, SIZES[fields])
    embeddings = random_embeddings(1, sum(SIZES[fields]))
    before = trained_workspace(Workspace(tmp_path / "ws"), dataset, embeddings)
    after = appended(before, fields)
    assert after.layout.sizes == tuple(np.array(SIZES[fields]) + [2, 1, 1][:fields])
    stored = by_id(after, after.train())
    assert stored[:-2] == by_id(before, before.train())
    assert stored[-2:] == [(1002, "new", *[77] * (fields - 2), 1.0), (-20, "new", *[77] * (fields - 2), 0.0)]
    assert by_id(after, after.trained()) == stored[:-2]
    for part in ("valid", "test"):
        assert by_id(after, after.held_out(part)) == by_id(before, before.held_out(part))
    assert after.manifest.n_examples == before.manifest.n_examples + 2
    assert after.trained_on == {"trained_examples": before.manifest.n_examples, "trained_sizes": SIZES[fields]}
    assert len(after.trained_items) == SIZES[fields][1]


def test_erasures_before_it_stay_and_later_ones_find_their_examples(tmp_path: Path) -> None:
    before = trained_workspace(Workspace(tmp_path / "ws"), random_dataset(3), random_embeddings(1, 22))
    gone = np.array([3, 14])
    change = erasure([1, 5], [3, 14], random_embeddings(2, 2), forgotten=gone, held_out={"valid": np.array([0])})
    with before.workspace.lock("test"):
        commit_erasure(before, change)
    before = open_version(before.workspace)
    after = appended(before, 2)
    assert after.erased_ids().tolist() == [1, 5]
    assert after.forgotten_rows().tolist() == [3, 16]
    assert by_id(after, after.held_out("valid")) == by_id(before, before.held_out("valid"))
    layout = after.layout
    assert rows_in(after.forgotten_rows(), layout, before.layout).tolist() == [3, 14]
    kept = np.concatenate([after.embeddings()[:13], after.embeddings()[15:24]])
    assert kept.tobytes() == before.embeddings().tobytes()
    model = before.model
    assert (
        after.embeddings()[24:].tobytes() == unseen_rows("item", ["new"], 4, model.spec.init_std, model.seed).tobytes()
    )
    with after.workspace.lock("test"):
        commit_erasure(after, erasure([7, 61], [], random_embeddings(2, 0)))
    last = open_version(after.workspace, check_content=True)
    assert last.erased_ids().tolist() == [1, 5, 7, 61]
    assert last.erased_since(before).tolist() == [7]
    assert last.erased_since(after).tolist() == [7, 61]


def test_data_without_a_model_have_none_afterwards(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    trained_workspace(workspace, random_dataset(3), random_embeddings(1, 22))
    after = appended(open_version(workspace, 1), 2) if workspace.manifest_path(2).unlink() is None else None
    assert after is not None
    assert after.manifest.model is None
    assert len(after.train()) == 62


def test_rows_and_embeddings_move_with_the_sizes_of_the_tables() -> None:
    rows = np.array([[0, 3], [2, 4]])
    assert moved(Interactions(rows, np.zeros(2, np.float32)), OLD, NEW).rows.tolist() == [[0, 5], [2, 6]]
    assert rows_in(np.array([0, 2, 3, 4, 5, 6, 7]), NEW, OLD).tolist() == [0, 2, 3, 4]
    values = np.arange(5, dtype=np.float32)[:, None]
    assert grown(values, OLD, NEW)[:, 0].tolist() == [0, 1, 2, 0, 0, 3, 4, 0]
    added = np.full((8, 1), 9, np.float32)
    assert grown(values, OLD, NEW, added)[:, 0].tolist() == [0, 1, 2, 9, 9, 3, 4, 9]
    assert (added == 9).all()
