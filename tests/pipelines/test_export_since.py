"""Exports of what changed, and of what a graph model scores with."""

from pathlib import Path

import numpy as np
import pytest

from ifru_dist.errors import IfruError
from ifru_dist.pipelines.export import TableRows, changed_rows
from ifru_dist.training.imported import load_embeddings
from ifru_dist.workspace.version import Version
from tests.pipelines.exports import (
    ITEM,
    MODELS,
    ROWS,
    SUFFIXES,
    USERS,
    exported,
    named_rows,
    named_values,
    retrained,
    values_of,
)
from tests.pipelines.small import (
    BUSY,
    SIZES,
    erase,
    pair,
    small_interactions,
    small_workspace,
    whole_item,
    whole_user,
)
from tests.workspaces import item_id, user_id

# ---------------------------------------------------------------------------------------------------------------- since


@MODELS
def test_only_rows_that_changed_are_exported(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root, name=model)
    after = erase(root, pair(ROWS[0]), pair(ROWS[50]))
    arrays = exported(root, since=2)
    old, new = before.embeddings(), after.embeddings()
    changed = np.flatnonzero((old != new).any(axis=1))
    assert 0 < len(changed) < sum(SIZES)
    expected = {key: new[row].tobytes() for key, row in named_rows(after).items() if row in changed}
    assert named_values(arrays) == expected
    assert arrays["removed_user_ids"].tolist() == arrays["removed_item_ids"].tolist() == []
    for name, values in arrays.items():
        assert values.dtype.kind == {"user_ids": "i", "removed_user_ids": "i", "user": "f", "item": "f"}.get(name, "U")


@SUFFIXES
def test_what_was_erased_wholly_is_named_once_to_be_deleted(tmp_path: Path, suffix: str) -> None:
    root, path = tmp_path / "ws", tmp_path / f"changes{suffix}"
    small_workspace(root)
    erase(root, whole_user(BUSY))
    erase(root, whole_item(ITEM))
    removed = ("removed_user_ids", "removed_item_ids")
    gone = [exported(root, to=path, since=since, version=version) for since, version in ((2, 4), (2, 3), (3, 4))]
    assert [[arrays[name].tolist() for name in removed] for arrays in gone] == [
        [[user_id(BUSY)], [item_id(ITEM)]],
        [[user_id(BUSY)], []],
        [[], [item_id(ITEM)]],
    ]
    assert user_id(BUSY) not in gone[0]["user_ids"]
    assert item_id(ITEM) not in gone[0]["item_ids"]


@MODELS
@pytest.mark.parametrize("outputs", [False, True])
def test_a_store_that_takes_up_every_change_holds_what_a_whole_export_holds(
    tmp_path: Path, model: str, outputs: bool
) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model, layers=2)
    store = named_values(exported(root, outputs=outputs), outputs)
    batches = [[pair(ROWS[0])], [whole_user(BUSY), pair(ROWS[50])], [whole_item(ITEM)]]
    for version, batch in enumerate(batches, start=3):
        erase(root, *batch)
        changes = exported(root, since=version - 1, outputs=outputs)
        for table in ("user", "item"):
            for external in changes[f"removed_{table}_ids"].tolist():
                del store[table, external]
        store |= named_values(changes, outputs)
    assert store == named_values(exported(root, outputs=outputs), outputs)
    assert len(store) == sum(SIZES) - 2


def test_a_model_that_was_made_anew_is_compared_row_by_row(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    embeddings = before.embeddings()
    embeddings[3, 2] += 1
    embeddings[USERS + 5, 0] = -0.0
    embeddings[USERS + 6, 0] = np.nextafter(embeddings[USERS + 6, 0], np.float32(9))
    after = retrained(before, embeddings)
    rows = [3, USERS + 5, USERS + 6]
    assert after.model.trained_version == 3
    arrays = exported(root, since=2)
    assert arrays["user_ids"].tolist() == [user_id(3)]
    assert arrays["item_ids"].tolist() == [item_id(5), item_id(6)]
    assert np.concatenate([arrays["user"], arrays["item"]]).tobytes() == embeddings[rows].tobytes()


def test_minus_zero_is_a_change_too() -> None:
    ids = np.array([1, 2])
    old = TableRows(ids=ids, values=np.zeros((2, 2), np.float32))
    new = TableRows(ids=ids, values=np.array([[0, 0], [0, -0.0]], np.float32))
    assert changed_rows(new, old)[0].ids.tolist() == [2]


def test_tables_of_other_widths_differ_in_every_row(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    after = retrained(before, np.ones((sum(SIZES), 7), np.float32))
    assert named_values(exported(root, since=2)) == values_of(after, after.embeddings())


def test_rows_are_compared_by_id_wherever_they_stand() -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    old = TableRows(ids=np.array(["a", "b", "c"]), values=values[:3])
    new = TableRows(ids=np.array(["d", "c", "a"]), values=values[[3, 2, 1]])
    changed, gone = changed_rows(new, old)
    assert (changed.ids.tolist(), gone.tolist()) == (["d", "a"], ["b"])
    assert changed.values.tolist() == values[[3, 1]].tolist()
    nothing = TableRows(ids=old.ids[:0], values=old.values[:0])
    assert changed_rows(new, nothing)[0].ids.tolist() == ["d", "c", "a"]
    assert changed_rows(nothing, old)[1].tolist() == ["a", "b", "c"]
    assert changed_rows(old, old)[0].ids.tolist() == []


# -------------------------------------------------------------------------------------------------------------- outputs


def dense_outputs(version: Version, layers: int) -> np.ndarray:
    """sum_k A^k E / (layers + 1) with a dense float64 adjacency of the positives that are left."""
    data = version.train()
    adjacency = np.zeros((sum(SIZES), sum(SIZES)))
    for user, item in data.rows[data.labels == 1]:
        adjacency[user, item] += 1
        adjacency[item, user] += 1
    degrees = adjacency.sum(axis=1)
    scale = np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    adjacency = scale[:, None] * adjacency * scale
    powers = [np.linalg.matrix_power(adjacency, k) for k in range(layers + 1)]
    return sum(powers) @ version.embeddings().astype(np.float64) / (layers + 1)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_outputs_of_a_graph_model_are_those_of_the_graph_that_is_left(tmp_path: Path, layers: int) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name="lightgcn", layers=layers)
    after = erase(root, whole_user(BUSY), pair(ROWS[0]))
    arrays = exported(root, outputs=True)
    assert set(arrays) == {"user_output", "user_ids", "item_output", "item_ids"}
    outputs = np.concatenate([arrays["user_output"], arrays["item_output"]])
    expected = dense_outputs(after, layers)[after.known_rows()]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(outputs - after.embeddings()[after.known_rows()]).max() > 0.1


def test_outputs_change_around_an_erased_interaction_where_embeddings_do_not(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name="lightgcn")
    positive = next(rows for rows, label in zip(ROWS, small_interactions().labels, strict=True) if label == 1)
    erase(root, pair(positive))
    outputs, embeddings = exported(root, since=2, outputs=True), exported(root, since=2)
    old, new = (exported(root, version=number, outputs=True) for number in (2, 3))
    changed = {key for key, row in named_values(new, True).items() if named_values(old, True)[key] != row}
    assert set(named_values(outputs, True)) == changed
    assert len(outputs["item_ids"]) > len(embeddings["item_ids"])


def test_outputs_of_matrix_factorisation_are_its_embeddings(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    assert named_values(exported(tmp_path / "ws", outputs=True), True) == values_of(version, version.embeddings())


def test_outputs_are_not_imported_as_embeddings(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws", name="lightgcn")
    arrays = exported(tmp_path / "ws", outputs=True)
    with pytest.raises(IfruError, match="no array 'user', 'item': the file must hold"):
        load_embeddings(tmp_path / "export.npz", {"user": arrays["user_ids"], "item": arrays["item_ids"]})
