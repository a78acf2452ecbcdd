from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace import folding, gone
from ifru_dist.workspace.commits import commit_erasure
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace


@pytest.fixture
def version(tmp_path: Path) -> Version:
    return trained_workspace(Workspace(tmp_path / "ws"), random_dataset(1), random_embeddings(1, 22))


def test_rows_are_found_by_the_text_of_their_ids(version: Version) -> None:
    users = version.find_rows(0, pa.array(["-20", "0", "100", "101", "-020", None, ""]))
    assert users.tolist() == [0, 2, 12, -1, -1, -1, -1]
    items = version.find_rows(1, pa.array(["0000", "0008", "8", None], pa.large_string()))
    assert items.tolist() == [13, 21, -1, -1]
    assert version.find_rows(0, pa.array([], pa.string())).tolist() == []


def test_forgotten_rows_have_no_id_and_no_held_out_pair(version: Version) -> None:
    before = {part: version.held_out(part) for part in ("valid", "test")}
    for rows in ([0, 13], [2]):  # in two batches
        batch = erasure([], rows, random_embeddings(0, len(rows)), forgotten=np.array(rows, np.int64))
        commit_erasure(open_version(version.workspace), batch)
    after = open_version(version.workspace, check_content=True)
    assert after.forgotten_rows().tolist() == [0, 2, 13]
    assert np.setdiff1d(np.arange(22), after.known_rows()).tolist() == [0, 2, 13]
    for table, local in ((0, [0, 2]), (1, [0])):
        ids = version.ids(table).to_pylist()
        assert after.ids(table).to_pylist() == [None if row in local else value for row, value in enumerate(ids)]
        assert after.ids(table).type == version.ids(table).type
    assert after.find_rows(0, pa.array(["-20", "0", "-10", None])).tolist() == [-1, -1, 1, -1]
    assert after.find_rows(1, pa.array(["0000", "0008"])).tolist() == [-1, 21]
    for part, pairs in before.items():
        left = pairs.take(np.array([not {0, 2, 13} & set(rows) for rows in pairs.rows.tolist()]))
        assert len(left) < len(pairs)
        assert after.held_out(part).rows.tolist() == left.rows.tolist()
        assert after.held_out(part).labels.tolist() == left.labels.tolist()
    assert version.ids(0).null_count == 0  # the version before is as it was
    assert len(version.held_out("test")) == len(before["test"])


def test_held_out_pairs_that_were_erased_by_themselves_are_gone(version: Version) -> None:
    before = {part: version.held_out(part) for part in ("valid", "test")}
    gone = {"valid": [3], "test": [0, 11, 5]}
    for valid, test in (([3], [0, 11]), ([], [5])):
        positions = {"valid": np.array(valid, np.int64), "test": np.array(test, np.int64)}
        batch = erasure([], [], random_embeddings(0, 0), held_out=positions)
        commit_erasure(open_version(version.workspace), batch)
    after = open_version(version.workspace, check_content=True)
    for part, pairs in before.items():
        positions, left = after.held_out_left(part)
        assert positions.tolist() == np.delete(np.arange(len(pairs)), gone[part]).tolist()
        assert left.rows.tolist() == np.delete(pairs.rows, gone[part], axis=0).tolist()
        assert after.held_out(part).labels.tolist() == np.delete(pairs.labels, gone[part]).tolist()
    assert after.forgotten_rows().tolist() == []
    assert after.ids(0).equals(version.ids(0))


def test_a_version_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_dataset(workspace, random_dataset(1), 4)
    with pytest.raises(WorkspaceError, match=r"holds no model yet: make one with jobs/train\.py"):
        open_version(workspace).embeddings()


def test_a_folder_without_a_workspace_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"holds no workspace: make one with jobs/preprocess\.py"):
        open_version(Workspace(tmp_path / "nothing"))


def test_a_version_that_is_not_there_names_those_that_are(version: Version) -> None:
    with pytest.raises(WorkspaceError, match="has no version 9: it has 1 to 2"):
        open_version(version.workspace, 9)
    assert open_version(version.workspace, 1).manifest.kind == "preprocess"


def test_every_missing_or_damaged_file_is_named_with_the_remedy(version: Version) -> None:
    root = version.workspace.root
    for entry in version.manifest.files():
        path = root / entry.path
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(WorkspaceError, match=f"{entry.path} is missing: restore the file"):
            open_version(version.workspace)
        path.write_bytes(content + b"x")
        with pytest.raises(WorkspaceError, match=f"{entry.path} is damaged: .*: restore the file"):
            open_version(version.workspace)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(WorkspaceError, match=f"{entry.path} is damaged: its SHA-256.*: restore the file"):
            open_version(version.workspace, check_content=True)
        path.write_bytes(content)
    open_version(version.workspace, check_content=True)


def test_embeddings_and_incidence_of_partitions_share_one_order(version: Version) -> None:
    incidence = version.mapped_incidence([3, 0]).whole()
    np.testing.assert_array_equal(version.embeddings_of([3, 0]), random_embeddings(1, 22)[incidence.rows])


def test_a_further_field_is_a_table_like_the_others(tmp_path: Path) -> None:
    dataset, embeddings = random_dataset(2, sizes=(13, 9, 3)), random_embeddings(2, 25)
    version = trained_workspace(Workspace(tmp_path / "ws"), dataset, embeddings, partitions=4)
    assert version.find_rows(2, pa.array(["102", "100", "13"])).tolist() == [24, 22, -1]
    incidence = version.mapped_incidence([2, 0]).whole()
    np.testing.assert_array_equal(version.embeddings_of([2, 0]), embeddings[incidence.rows])
    gone = np.flatnonzero((dataset.train.rows == 4).any(axis=1))
    values = random_embeddings(3, 3)
    commit_erasure(version, erasure(gone.tolist(), [4, 20, 23], values, forgotten=np.array([4])))
    after = open_version(version.workspace, check_content=True)
    embeddings[[4, 20, 23]] = values
    np.testing.assert_array_equal(after.embeddings(), embeddings)
    assert after.train().rows.tolist() == np.delete(dataset.train.rows, gone, axis=0).tolist()
    left = ~(dataset.test.rows == 4).any(axis=1)
    assert after.held_out("test").rows.tolist() == dataset.test.rows[left].tolist()
    assert (after.ids(0).null_count, after.ids(2).null_count) == (1, 0)
    whole = after.mapped_incidence(range(4)).whole()
    assert sorted(whole.example.tolist()) == sorted(np.delete(np.arange(60), gone).tolist() * 3)


def _erased(version: Version, number: int) -> Version:
    """The version after a batch that erases an example, forgets a row and a held-out pair, opened as a successor."""
    held_out = {"valid": np.array([number]), "test": np.array([], np.int64)}
    batch = erasure([number], [number], random_embeddings(number, 1), forgotten=np.array([number]), held_out=held_out)
    commit_erasure(version, batch)
    return open_version(version.workspace, after=version)


def test_of_a_successor_only_new_files_are_checked(version: Version) -> None:
    root = version.workspace.root
    old = version.manifest.examples
    content = (root / old.path).read_bytes()
    (root / old.path).unlink()
    after = _erased(version, 0)
    assert after.manifest.version == 3
    new = set(after.manifest.files()) - set(version.manifest.files())
    assert len(new) >= 4
    for before, content_too in ((None, False), (after, False), (version, True)):
        with pytest.raises(WorkspaceError, match=f"{old.path} is missing: restore the file"):
            open_version(version.workspace, after=before, check_content=content_too)
    (root / old.path).write_bytes(content)
    for entry in new:
        content = (root / entry.path).read_bytes()
        (root / entry.path).write_bytes(content + b"x")
        with pytest.raises(WorkspaceError, match=f"{entry.path} is damaged: .*: restore the file"):
            open_version(version.workspace, after=version)
        (root / entry.path).write_bytes(content)
    assert open_version(version.workspace, after=version).manifest == after.manifest


def test_what_is_gone_reads_the_same_whether_files_were_read_before_or_not(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "LONGEST_LIST", 3)
    monkeypatch.setattr(folding, "_SHORT", 1)
    for number in range(9):
        version = _erased(version, number)
        if number % 3 == 1:
            continue  # what was read is handed on by a version that was not asked
        fresh = open_version(version.workspace)
        assert version.forgotten_rows().tolist() == fresh.forgotten_rows().tolist() == list(range(number + 1))
        assert version.held_out_left("valid")[0].tolist() == fresh.held_out_left("valid")[0].tolist()
        everything = np.arange(-1, 22).reshape(1, 23)
        assert version.are_forgotten(everything).tolist() == np.isin(everything, np.arange(number + 1)).tolist()


def test_who_alters_the_forgotten_rows_that_a_version_gave_alters_no_version(version: Version) -> None:
    version = _erased(version, 4)
    version.forgotten_rows()[:] = 7
    assert version.forgotten_rows().tolist() == [4]


def test_files_that_a_version_before_has_read_are_not_opened_again(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        version = _erased(version, number)
    version.forgotten_rows()
    opened: list[str] = []
    opening = gone.open_arrow
    monkeypatch.setattr(gone, "open_arrow", lambda root, entry: opened.append(entry.path) or opening(root, entry))
    version = _erased(version, 6)
    for _ in range(3):
        assert len(version.forgotten_rows()) == 7
        version.held_out_left("valid")
    assert len(opened) == 2
    assert {path.split("/")[0] for path in opened} == {"ids", "split"}
