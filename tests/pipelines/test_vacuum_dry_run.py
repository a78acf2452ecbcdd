"""What jobs/vacuum.py --dry-run tells, against what the run then does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.appended import appended
from tests.pipelines.batches import BATCH, ROWS, copy, run
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    one_torch_thread,
    pair,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def test_a_dry_run_tells_what_a_run_does_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    (root / "lock").unlink()
    for keep in (3, 2, 1):
        before = tree(tmp_path)
        capsys.readouterr()
        assert vacuum(VacuumConfig(workspace=root, keep_versions=keep, dry_run=True)) == 0
        assert tree(tmp_path) == before
        told = capsys.readouterr().out
        assert told.startswith("dry run: nothing was changed")
        other = copy(root, tmp_path / f"other{keep}")
        assert vacuum(VacuumConfig(workspace=other, keep_versions=keep)) == 0
        done = capsys.readouterr().out
        assert set(told.splitlines()[1:]) <= set(done.splitlines())


def counts_of_a_dry_run_and_of_a_run(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """What each says of the files that it deletes."""
    told = []
    for dry_run in (True, False):
        capsys.readouterr()
        assert vacuum(VacuumConfig(workspace=root, keep_versions=1, dry_run=dry_run)) == 0
        told.append(capsys.readouterr().out)
    dry, real = ([line for line in lines.splitlines() if "files deleted" in line] for lines in told)
    assert len(dry) == len(real) == 1
    return dry, real


@pytest.mark.parametrize(
    "batch",
    [[whole_user(LONER)], [whole_item(4)], [pair(ROWS[0])], [whole_user(BUSY), pair(ROWS[60])]],
    ids=["user", "item", "pair", "both"],
)
def test_a_dry_run_counts_no_file_that_comes_out_of_compaction_as_it_was(
    tmp_path: Path, batch: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *batch)
    dry, real = counts_of_a_dry_run_and_of_a_run(root, capsys)
    assert dry == real


def test_a_dry_run_counts_no_file_of_an_older_version_that_comes_back_by_compaction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    met = {tuple(row) for row in ROWS.tolist()}
    new = next(row for row in ((0, item) for item in range(SIZES[0], sum(SIZES))) if row not in met)
    request = pair(np.array(new))
    appended(root, [(int(request["user"]), request["item"])])
    run(root, request)
    dry, real = counts_of_a_dry_run_and_of_a_run(root, capsys)
    assert dry == real
    assert set(open_version(Workspace(root)).manifest.graph) & set(before.manifest.graph)
