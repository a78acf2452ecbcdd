from pathlib import Path

import numpy as np
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.commits import commit_erasure, commit_vacuum
from ifru_dist.workspace.compaction import compacted
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.vacuum import delete_files, retained_files, unlisted_files
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace


@pytest.fixture
def erased(tmp_path: Path) -> Version:
    """Three versions; the third has erased examples and changed rows."""
    trained = trained_workspace(Workspace(tmp_path / "ws"), random_dataset(5), random_embeddings(5, 22))
    commit_erasure(trained, erasure([3, 7], [1, 20], random_embeddings(6, 2)))
    return open_version(trained.workspace)


def files(workspace: Workspace) -> set[str]:
    """The files of the data folders."""
    found = {path.relative_to(workspace.root).as_posix() for path in workspace.root.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("versions/", "lock"))}


def test_nothing_is_unlisted_while_all_versions_are_kept(erased: Version) -> None:
    listed = retained_files(erased.workspace, 1)
    assert {entry.path for entry in listed} == files(erased.workspace)
    assert len(listed) == len(files(erased.workspace))
    assert unlisted_files(erased.workspace, listed) == []


def test_files_of_old_versions_remnants_and_strangers_go_and_nothing_else(erased: Version, tmp_path: Path) -> None:
    workspace = erased.workspace
    root = workspace.root
    kept = [root / "reports" / "x" / "report.json", root / "quarantine" / "rows.parquet", root / "notes.txt"]
    outside = tmp_path / "outside"
    outside.write_text("not of the workspace")
    strangers = [root / "tables" / "delta-cut-off.arrow", root / "ids" / "deep" / "er.txt", root / "graph" / "link"]
    remnants = [root / folder / ".writing-1-ab" for folder in ("examples", "versions", "quarantine")]
    for path in (*kept, *strangers[:2], *remnants):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    strangers[2].symlink_to(outside)
    listed = {entry.path for entry in erased.manifest.files()}
    old = {root / name for name in files(workspace) - listed if name.endswith(".arrow") and "cut-off" not in name}
    found = unlisted_files(workspace, erased.manifest.files())
    assert set(found) == {*strangers, *remnants, *old}
    delete_files(found)
    assert files(workspace) == listed | {path.relative_to(root).as_posix() for path in kept}
    assert outside.read_text() == "not of the workspace"
    assert workspace.versions() == [1, 2, 3]
    open_version(workspace, check_content=True)


def test_a_vacuumed_version_says_so_and_its_manifest_stays(erased: Version) -> None:
    workspace = erased.workspace
    commit_vacuum(erased, compacted(erased), retained_from=4)
    delete_files(unlisted_files(workspace, retained_files(workspace, 4)))
    after = open_version(workspace, check_content=True)
    assert (after.manifest.version, after.manifest.retained_from, after.manifest.kind) == (4, 4, "compact")
    assert files(workspace) == {entry.path for entry in after.manifest.files()}
    expected = r"version 2 of .* was vacuumed: its files are deleted, .* name a version from 4 to 4"
    with pytest.raises(WorkspaceError, match=expected):
        open_version(workspace, 2)
    with pytest.raises(WorkspaceError, match=expected):
        after.original()
    assert not after.has_original
    assert erased.has_original is False  # the workspace's current version says what is kept
    for number in (1, 2, 3):
        assert workspace.manifest(number).version == number
        assert workspace.manifest(number + 1).parent == workspace.digest(number)
    commit_erasure(after, erasure([9], [2], random_embeddings(1, 1)))
    assert open_version(workspace).manifest.retained_from == 4
    assert open_version(workspace).erased_ids().tolist() == [3, 7, 9]
    np.testing.assert_array_equal(open_version(workspace, 4).embeddings(), after.embeddings())


def test_a_version_that_is_said_to_be_vacuumed_is_not_opened_even_if_its_files_are_still_there(erased: Version) -> None:
    commit_vacuum(erased, {}, retained_from=3)
    for number in (1, 2):
        with pytest.raises(WorkspaceError, match=f"version {number} of .* was vacuumed"):
            open_version(erased.workspace, number)
    assert open_version(erased.workspace, 3).erased_ids().tolist() == [3, 7]
