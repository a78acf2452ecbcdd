"""Compaction: a version reads the same afterwards, and its files hold nothing of what it has erased."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.workspace.commits import commit_vacuum
from ifru_dist.workspace.compaction import compacted, holds_erased, superseded
from ifru_dist.workspace.dataset import Dataset
from ifru_dist.workspace.files import open_arrow
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import datasets, random_dataset, random_embeddings, table_names, trained_workspace
from tests.workspace.reading import PARTITIONS, assert_reads_the_same, erase, same


def compact(version: Version) -> Version:
    """The version after a compaction; all versions are kept."""
    commit_vacuum(version, compacted(version), retained_from=1)
    return open_version(version.workspace, check_content=True)


def assert_holds_only_what_is_left(version: Version) -> None:
    """Reads the listed files by themselves: as many examples, edges and pairs as are left, and no forgotten row."""
    root, manifest, layout = version.workspace.root, version.manifest, version.layout
    forgotten, left = version.forgotten_rows(), len(version.train())
    examples = open_arrow(root, manifest.examples).read_all()
    assert sorted(examples.column("example").to_pylist()) == np.flatnonzero(version.alive()).tolist()
    for table, name in enumerate(layout.tables):
        stored = examples.column(name).to_numpy() + layout.offsets[table]
        assert not np.isin(stored, forgotten).any()
        assert len(open_arrow(root, manifest.graph[table]).read_all()) == left
        assert sum(open_arrow(root, manifest.degrees[table]).read_all().column("degree").to_pylist()) == left
        nulls = open_arrow(root, manifest.ids[table]).read_all().column("id").is_null().to_numpy()
        assert (
            np.flatnonzero(nulls).tolist()
            == (forgotten[layout.table_of(forgotten) == table] - layout.offsets[table]).tolist()
        )
    for part, entry in (("valid", manifest.valid), ("test", manifest.test)):
        assert len(open_arrow(root, entry).read_all()) == len(version.held_out(part))
    assert manifest.tombstones == manifest.forgotten == manifest.held_out_erased == version.model.deltas == ()


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(dataset=datasets(), seed=st.integers(0, 1000), rounds=st.integers(1, 3))
def test_a_version_reads_the_same_and_holds_only_what_is_left(dataset: Dataset, seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        n_rows = sum(len(ids) for ids in dataset.ids)
        workspace = Workspace(Path(folder) / "ws")
        version = trained_workspace(workspace, dataset, random_embeddings(seed, n_rows), PARTITIONS)
        users_and_items = sum(len(ids) for ids in dataset.ids[:2])
        for number in range(rounds):
            examples = rng.choice(len(dataset.train), rng.integers(0, len(dataset.train) + 1), replace=False)
            forgotten = np.sort(rng.choice(users_and_items, rng.integers(0, 3), replace=False))
            before = erase(version, number, examples, forgotten, rng.integers(0, 6, 2))
            version = compact(before)
            assert_reads_the_same(before, version)
            assert_holds_only_what_is_left(version)
            assert superseded(version.manifest) == {}


@pytest.fixture
def trained(tmp_path: Path) -> Version:
    return trained_workspace(Workspace(tmp_path / "ws"), random_dataset(5), random_embeddings(5, 22), PARTITIONS)


def test_what_nothing_was_erased_from_is_not_written_anew(trained: Version) -> None:
    assert (superseded(trained.manifest), compacted(trained)) == ({}, {})
    only_pairs = erase(trained, 1, np.empty(0, np.int64), np.empty(0, np.int64), np.array([2]))
    assert list(superseded(only_pairs.manifest)) == ["held_out"]
    after = compact(only_pairs)
    for name in ("examples", "graph", "degrees", "ids", "model"):
        assert getattr(after.manifest, name) == getattr(trained.manifest, name)
    assert (after.manifest.kind, after.manifest.version) == ("compact", 4)


def test_examples_keep_their_ids_and_those_that_went_are_known_as_such(trained: Version) -> None:
    gone = np.array([0, 7, 59])
    after = compact(erase(trained, 1, gone, np.empty(0, np.int64), np.empty(0, np.int64)))
    kept = np.setdiff1d(np.arange(60), gone)
    examples = after.all_examples()
    assert examples.ids.tolist() == list(range(60))
    assert (examples.rows[gone] == -1).all()
    assert same(examples.take(kept), trained.all_examples().take(kept))
    assert after.manifest.n_examples == 60
    assert after.erased_since(trained).tolist() == gone.tolist()
    again = erase(after, 2, np.array([7, 8]), np.empty(0, np.int64), np.empty(0, np.int64))
    assert again.erased_ids().tolist() == [0, 7, 8, 59]
    assert again.erased_since(after).tolist() == [8]
    assert not np.isin(again.mapped_incidence(range(PARTITIONS)).whole().example, [0, 7, 8, 59]).any()
    assert again.manifest.n_erased == 4


def test_an_older_version_holds_what_was_erased_after_it_or_before_it(trained: Version) -> None:
    erased = erase(trained, 1, np.array([3]), np.array([2]), np.array([1]))
    assert holds_erased(trained.manifest, erased.manifest)
    assert holds_erased(erased.manifest, erased.manifest)
    after = compact(erased)
    assert holds_erased(trained.manifest, after.manifest)
    assert holds_erased(erased.manifest, after.manifest)
    assert not holds_erased(after.manifest, after.manifest)
    assert not holds_erased(trained.manifest, trained.manifest)


def test_the_values_under_nulls_are_not_the_ids_that_were(tmp_path: Path) -> None:
    number = 7_316_502_948_113
    dataset = random_dataset(5)
    users = dataset.ids[0].to_pylist()
    users[4] = number
    ids = (pa.array(users, pa.int64()), pa.array([f"film-number-{row}" for row in range(9)], pa.large_string()))
    dataset = Dataset(ids=ids, tables=table_names(2), train=dataset.train, valid=dataset.valid, test=dataset.test)
    version = trained_workspace(Workspace(tmp_path / "ws"), dataset, random_embeddings(5, 22), PARTITIONS)
    after = compact(erase(version, 1, np.empty(0, np.int64), np.array([4, 13 + 6]), np.empty(0, np.int64)))
    for table, content in enumerate((number.to_bytes(8, "little"), b"film-number-6")):
        old, new = ((version.workspace.root / v.manifest.ids[table].path).read_bytes() for v in (version, after))
        assert content in old
        assert content not in new
