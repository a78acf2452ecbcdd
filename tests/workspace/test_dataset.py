import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import WorkspaceError
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.dataset import Dataset, require_unused, write_dataset
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.workspace.datasets import datasets, random_dataset


def _assert_same(actual: Interactions, expected: Interactions) -> None:
    np.testing.assert_array_equal(actual.rows, expected.rows)
    np.testing.assert_array_equal(actual.labels, expected.labels)


@given(datasets(), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_a_dataset_comes_back_as_written(dataset: Dataset, partitions: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name) / "ws")
        written = write_dataset(workspace, dataset, partitions)
        version = open_version(workspace, check_content=True)
        assert version.manifest == written
        assert (written.version, written.parent, written.kind, written.epoch) == (1, None, "preprocess", 1)
        assert written.extra == dataset.extra
        assert version.layout.tables == dataset.tables
        for table, ids in enumerate(dataset.ids):
            assert version.ids(table).equals(ids)
        for examples in (version.all_examples(), version.train()):
            _assert_same(examples, dataset.train)
        _assert_same(version.held_out("valid"), dataset.valid)
        _assert_same(version.held_out("test"), dataset.test)
        assert version.alive().all()
        assert version.partition_edges().sum() == len(dataset.tables) * len(dataset.train)


def test_the_same_data_give_the_same_files(tmp_path: Path) -> None:
    first, second = (write_dataset(Workspace(tmp_path / name), random_dataset(1), 4) for name in "ab")
    assert first.files() == second.files()


def test_a_folder_that_holds_a_workspace_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    require_unused(workspace)
    before = write_dataset(workspace, random_dataset(1), 4)
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(WorkspaceError, match="holds version 1 already: choose another --workspace"):
        write_dataset(workspace, random_dataset(2), 4)
    assert sorted(tmp_path.rglob("*")) == files
    assert workspace.manifest() == before
