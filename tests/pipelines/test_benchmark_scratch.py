"""The copy of a workspace that a benchmark erases from: nothing of it reaches the workspace, and nothing is left."""

import os
import signal
from pathlib import Path

import pytest

from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.pipelines import benchmark_scratch
from ifru_dist.pipelines.benchmark_scratch import ended_by_signal, scratch_copy
from ifru_dist.pipelines.erasing import EraseFlags, Eraser
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.requests import read_requests
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import BATCH
from tests.pipelines.small import erase, request_file, small_workspace, tree, whole_user


def erase_from(copy: Version, key_file: Path, requests: Path) -> Version:
    flags = EraseFlags(workers=0, key_file=key_file)
    with copy.workspace.lock("test"), Workers(flags) as workers:
        eraser = Eraser(copy, flags, workers)
        eraser.erase(read_requests(requests))
        return eraser.version


@pytest.mark.parametrize("links", [True, False])
def test_what_is_erased_from_the_copy_stays_in_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    before = erase(root, whole_user(3))  # so that there are deltas, tombstones, a ledger
    requests = request_file(tmp_path / "requests.parquet", *BATCH)
    files = tree(tmp_path)
    if not links:

        def refused(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(benchmark_scratch.os, "link", refused)
    with scratch_copy(before, tmp_path) as copy:
        monkeypatch.undo()
        assert copy.manifest == before.manifest
        linked = [copy.workspace.root / entry.path for entry in copy.manifest.files()]
        assert all((path.stat().st_nlink > 1) == links for path in linked)
        after = erase_from(copy, Workspace(root).default_key_file, requests)
        assert after.manifest.version == before.manifest.version + 1
        assert len(after.train()) < len(before.train())
        again = open_version(Workspace(root), check_content=True)
        assert again.manifest == before.manifest
    assert tree(tmp_path) == files


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    files = tree(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"), scratch_copy(version, tmp_path) as copy:
        (copy.workspace.root / "nowhere" / "more").write_text("x")
    assert tree(tmp_path) == files


def test_a_signal_ends_it_as_an_error_does(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    files, handler = tree(tmp_path), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, ended_by_signal(), scratch_copy(version, tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert tree(tmp_path) == files
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_folder_that_is_not_there_and_a_file_that_has_gone(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    with pytest.raises(ConfigError, match=r"--scratch = .*nowhere"), scratch_copy(version, tmp_path / "nowhere"):
        pass
    (version.workspace.root / version.manifest.examples.path).unlink()
    files = tree(tmp_path)
    with pytest.raises(WorkspaceError, match="has gone"), scratch_copy(version, tmp_path):
        pass
    assert tree(tmp_path) == files
