"""Lists that grow with every batch are kept short, and what they say stays the same."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.workspace import folding
from ifru_dist.workspace.commits import commit_erasure
from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_table
from ifru_dist.workspace.folding import LONGEST_LIST, appended, first_folded, fold_deltas, fold_rows
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.tables import read_delta, write_delta
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace
from tests.workspace.reading import PARTITIONS, assert_reads_the_same, erase

LISTS = ("tombstones", "forgotten", "held_out_erased", "requests", "suppression")


def lengths(version: Version) -> list[int]:
    return [len(getattr(version.manifest, name)) for name in LISTS] + [len(version.model.deltas)]


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), batches=st.integers(1, 9), longest=st.sampled_from([2, 3, 5]))
def test_short_lists_read_as_long_ones(seed: int, batches: int, longest: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        versions = [
            trained_workspace(Workspace(Path(folder) / name), random_dataset(5), random_embeddings(5, 22), PARTITIONS)
            for name in ("short", "long")
        ]
        for number in range(batches):
            rng = np.random.default_rng([seed, number])
            examples = rng.choice(60, rng.integers(0, 6), replace=False)
            forgotten = np.sort(rng.choice(22, rng.integers(0, 2), replace=False))
            for at, limit in enumerate((longest, 1000)):
                patch.setattr(folding, "LONGEST_LIST", limit)
                patch.setattr(folding, "_SHORT", limit // 2)
                versions[at] = erase(versions[at], number, examples, forgotten, np.array([number]))
            assert_reads_the_same(*versions)
            assert max(lengths(versions[0])) <= longest


@pytest.mark.slow
def test_no_list_of_many_batches_is_longer_than_the_constant(tmp_path: Path) -> None:
    version = trained_workspace(Workspace(tmp_path / "ws"), random_dataset(5, n_train=200), random_embeddings(5, 22))
    expected = version.embeddings()
    for batch in range(LONGEST_LIST + 3):
        values = random_embeddings(batch, 2)
        rows = [batch % 20, batch % 20 + 1]
        expected[rows] = values
        commit_erasure(version, erasure([batch], rows, values))
        version = open_version(version.workspace)
    assert max(lengths(version)) == 4  # all before the fold, and three after it
    assert version.erased_ids().tolist() == list(range(LONGEST_LIST + 3))
    np.testing.assert_array_equal(version.embeddings(), expected)
    open_version(version.workspace, LONGEST_LIST, check_content=True)  # an older version has its own files still


def test_a_list_of_an_earlier_release_is_folded_however_long_it_is_and_whatever_the_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for sizes in (
        rng.integers(1, 10_000, 500),
        np.arange(1, 501),
        np.arange(500, 0, -1),
        np.full(500, 7),
        2 ** np.arange(60, 0, -1),
    ):
        first = first_folded(sizes.tolist())
        assert first < LONGEST_LIST // 2 + 1
        assert first < len(sizes) - 1


def test_a_byte_is_folded_as_often_as_the_logarithm_of_all_says() -> None:
    sizes: list[int] = []
    written = 0
    batches = 20_000
    for _ in range(batches):
        if len(sizes) == LONGEST_LIST:
            first = first_folded(sizes)
            written += sum(sizes[first:])
            sizes = [*sizes[:first], sum(sizes[first:])]
        sizes.append(1)
        assert len(sizes) <= LONGEST_LIST
    assert sum(sizes) == batches
    assert written < batches * np.log2(batches)
    assert all(older > 2 * newer for older, newer in pairwise(sizes) if newer > 1)


def _delta(root: Path, layout: Layout, rows: list[int], seed: int) -> FileEntry:
    return write_delta(root, layout, np.array(rows), random_embeddings(seed, len(rows), dim=2))


def test_folded_deltas_hold_the_newest_value_of_each_row_once(tmp_path: Path) -> None:
    layout = Layout(3, (5, 4))
    entries = [_delta(tmp_path, layout, rows, seed) for seed, rows in enumerate(([0, 7], [0, 1, 8], [1], [2]))]
    with Staging(tmp_path) as staging:
        folded = fold_deltas(layout)(staging, entries)
    rows, values = read_delta(tmp_path, layout, folded)
    assert rows.tolist() == [0, 1, 2, 7, 8]
    one, two, three, four = (random_embeddings(seed, count, dim=2) for seed, count in enumerate((2, 3, 1, 1)))
    np.testing.assert_array_equal(values, [two[0], three[0], four[0], one[1], two[2]])


def test_folded_rows_stand_in_their_order_and_columns_may_have_come_later(tmp_path: Path) -> None:
    tables = [{"a": [3, 1]}, {"a": [2], "b": ["x"]}, {"a": pa.array([], pa.int64())}]
    entries = [write_table(tmp_path, "folder/name", table) for table in tables]
    with Staging(tmp_path) as staging:
        folded = fold_rows(staging, entries)
    assert folded.path.startswith("folder/name-")
    assert open_arrow(tmp_path, folded).read_all().to_pydict() == {"a": [3, 1, 2], "b": [None, None, "x"]}


def test_nothing_is_folded_where_nothing_comes(tmp_path: Path) -> None:
    entries = [FileEntry(f"a/b-{number}.arrow", 1, "") for number in range(200)]
    with Staging(tmp_path) as staging:
        assert appended(staging, entries, [], fold_rows) == tuple(entries)
        assert appended(staging, entries[:-1][: LONGEST_LIST - 1], entries[-1:], fold_rows)[-1] == entries[-1]
