"""Ids looked up by an index that is kept, against the look-up by reading them all."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.workspace.commits import commit_erasure
from ifru_dist.workspace.lookup import IdLookup
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace

ASKED = ["-20", "0", "100", "101", "-020", " 100", "1_00", "+100", "9" * 30, None, "", "0000", "0008", "8", "x", "٣"]


@pytest.fixture
def version(tmp_path: Path) -> Version:
    return trained_workspace(Workspace(tmp_path / "ws"), random_dataset(3), random_embeddings(3, 22))


def both(lookup: IdLookup, version: Version) -> None:
    """The two look-ups agree on everything that is known, and on much that is not."""
    for table in (0, 1):
        ids = [*ASKED, *(str(known) for known in version.ids(table).to_pylist() if known is not None)]
        expected = version.find_rows(table, pa.array(ids, pa.large_string()))
        assert lookup.find_rows(version, table, ids).tolist() == expected.tolist()
        assert (expected >= 0).any()
        assert (expected < 0).any()
        assert lookup.find_rows(version, table, []).tolist() == []


def test_it_finds_what_reading_all_ids_finds(version: Version) -> None:
    both(IdLookup(), version)


def test_forgotten_rows_are_not_found_though_the_index_is_kept(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = IdLookup()
    both(lookup, version)
    gone = np.array([0, 14])
    commit_erasure(version, erasure([], [], np.empty((0, 4)), forgotten=gone))
    after = open_version(version.workspace)
    names = [str(version.ids(0)[0].as_py()), str(version.ids(1)[1].as_py())]
    with monkeypatch.context() as patch:
        patch.setattr("ifru_dist.workspace.lookup.open_arrow", None)  # no file of ids is read again
        assert [lookup.find_rows(after, table, [name]).tolist() for table, name in enumerate(names)] == [[-1], [-1]]
    both(lookup, after)
