"""jobs/vacuum.py: what it keeps and deletes, what it says, and that batches give the same bits after it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import ConfigError, WorkspaceBusyError, WorkspaceError
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.export import ExportConfig, export
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import BATCH, ERASED, MODELS, ROWS, copy, report_of, run
from tests.pipelines.planted import requests_of, trained
from tests.pipelines.small import (
    BUSY,
    one_torch_thread,
    pair,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def vacuumed(root: Path, keep_versions: int = 1, **changes: Any) -> Version:
    """Run the job; returns the version after it."""
    assert vacuum(VacuumConfig(workspace=root, keep_versions=keep_versions, **changes)) == 0
    return open_version(Workspace(root), check_content=True)


def data_files(root: Path) -> set[str]:
    return {name for name in tree(root) if name.endswith(".arrow")}


def listed(version: Version) -> set[str]:
    return {entry.path for entry in version.manifest.files()}


def same_model(one: Version, other: Version) -> bool:
    """Whether two versions have the same parameters, bit by bit."""
    dense = [(one.dense()[name], other.dense()[name]) for name in one.dense()]
    return np.array_equal(one.embeddings(), other.embeddings()) and all(np.array_equal(*pair) for pair in dense)


def assert_a_batch_is_the_same_after_a_vacuum(root: Path, target: Path, *batch: dict[str, Any], **solver: Any) -> None:
    other = copy(root, target)
    compact = vacuumed(other)
    plain, after = run(root, *batch, **solver), run(other, *batch, **solver)
    assert not same_model(compact, after)
    assert same_model(plain, after)
    assert plain.train().rows.tolist() == after.train().rows.tolist()
    assert plain.erased_ids().tolist() == after.erased_ids().tolist()
    assert plain.model.unsolved_interactions == after.model.unsolved_interactions
    assert plain.forgotten_rows().tolist() == after.forgotten_rows().tolist()


# ------------------------------------------------------------------------------------------------------------ the same


@MODELS
def test_a_batch_after_a_vacuum_gives_the_bits_of_one_without(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    run(root, *BATCH)
    assert_a_batch_is_the_same_after_a_vacuum(root, tmp_path / "other", pair(ROWS[60]), whole_user(3), row_budget=30)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"model": "mf", "loss": "bpr", "negatives": 2},
        {"model": "lightgcn", "layers": 2, "loss": "bpr", "negatives": 2},
        {"model": "neumf", "hidden": (6, 3)},
        {"model": "fm"},
    ],
    ids=lambda options: f"{options['model']}-{options.get('loss', 'bce')}",
)
def test_so_does_one_of_every_kind_of_model(tmp_path: Path, options: dict[str, Any]) -> None:
    before = trained(tmp_path / "ws", **options)
    requests = requests_of(before)
    run(before.workspace.root, *requests[:3])
    solver = {"dense": "full"} if options["model"] in ("neumf", "fm") else {}
    assert_a_batch_is_the_same_after_a_vacuum(before.workspace.root, tmp_path / "other", *requests[3:], **solver)


def test_requests_for_what_went_are_duplicates_still(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    after = vacuumed(root)
    assert run(root, *BATCH).manifest == after.manifest
    assert report_of(root, "unlearn-000004-nothing-to-do")["requests"]["duplicate"] == len(BATCH)
    again = run(root, *BATCH, pair(ROWS[0]) | {"request_id": "another ticket"})
    assert (again.manifest.version, again.manifest.n_erased) == (5, after.manifest.n_erased)
    assert report_of(root, "unlearn-000005")["requests"]["duplicate"] == len(BATCH) + 1


# -------------------------------------------------------------------------------------------------- what goes and stays


def test_only_the_current_version_may_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    embeddings = run(root, *BATCH).embeddings()
    sizes = {name: len(content or b"") for name, content in tree(root).items()}
    capsys.readouterr()
    after = vacuumed(root)
    manifest = after.manifest
    assert (manifest.version, manifest.kind, manifest.retained_from) == (4, "compact", 4)
    assert manifest.parent == after.workspace.digest(3)
    assert data_files(root) == listed(after)
    assert after.train().rows.tolist() == np.delete(ROWS, ERASED, axis=0).tolist()
    assert np.array_equal(after.embeddings(), embeddings)
    report = report_of(root, "vacuum-000004")
    gone = set(sizes) - set(tree(root))
    assert report["files_deleted"] == len(gone)
    assert report["bytes_freed"] == sum(sizes[name] for name in gone)
    assert (report["version_before"], report["version_after"]) == (3, 4)
    assert report["compacted"] == ["examples", "ids", "held_out", "embeddings"]
    assert (report["versions_kept"], report["versions_dropped"], report["versions_holding_erased"]) == ([4, 4], 3, [])
    assert report["quarantine"] is None
    assert report["config"]["keep_versions"] == 1
    documented = (_ROOT / "docs" / "reports.md").read_text().split("\n## vacuum")[1].split("\n## ")[0]
    for key in set(report) - {"job", "config"}:
        assert f"`{key}`" in documented
    printed = capsys.readouterr().out
    assert "version 3 -> 4" in printed
    assert f"{len(gone)} files deleted, {report['bytes_freed']:,} bytes freed" in printed
    assert "beware" not in printed


def test_again_it_finds_nothing_to_do(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    for keep in (1, 1, 2, 3):
        after = vacuumed(root, keep)
        assert (after.manifest.version, after.manifest.retained_from) == (4, 4)
    report = report_of(root, "vacuum-000004-nothing-to-do")
    assert (report["files_deleted"], report["bytes_freed"], report["versions_dropped"]) == (0, 0, 0)
    assert report_of(root, "vacuum-000004")["files_deleted"] > 0


def test_a_workspace_that_has_erased_nothing_only_drops_versions(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    assert vacuumed(root, 2).manifest == before.manifest
    after = vacuumed(root, 1)
    assert (after.manifest.version, after.manifest.kind, after.manifest.retained_from) == (3, "vacuum", 3)
    assert after.manifest.files() == before.manifest.files()
    assert report_of(root, "vacuum-000003")["compacted"] == []


def test_kept_versions_can_be_opened_and_the_job_says_that_they_hold_what_was_erased(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    first = run(root, pair(ROWS[0]))
    second = run(root, whole_user(BUSY))
    capsys.readouterr()
    after = vacuumed(root, 3)
    assert (after.manifest.version, after.manifest.retained_from) == (5, 3)
    assert report_of(root, "vacuum-000005")["versions_holding_erased"] == [3, 4]
    told = "beware: versions that are kept still hold what was erased: 3, 4; --keep-versions 1 forgets it"
    assert told in capsys.readouterr().out
    for version in (first, second):
        opened = open_version(version.workspace, version.manifest.version, check_content=True)
        assert opened.train().rows.tolist() == version.train().rows.tolist()
        assert same_model(opened, version)
    assert data_files(root) == listed(first) | listed(second) | listed(after)
    with pytest.raises(WorkspaceError, match=r"version 2 of .* was vacuumed"):
        open_version(after.workspace, 2)
    assert vacuumed(root, 1).manifest.version == 6
    assert data_files(root) == listed(open_version(after.workspace))


# --------------------------------------------------------------------------------------------------- after a vacuum


@MODELS
def test_evaluation_measures_the_model_but_not_on_what_is_gone(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    run(root, *BATCH)
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    whole = report_of(root, "evaluate-000003")
    vacuumed(root)
    capsys.readouterr()
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    report = report_of(root, "evaluate-000004")
    assert list(report["methods"]) == ["unlearned"]
    assert report["erased"] == whole["erased"] == len(ERASED)
    assert report["auc"] == whole["auc"]
    assert report["auc_or"] is None
    assert (
        "the version that was trained is vacuumed: nothing is measured on what was erased since"
        in capsys.readouterr().out
    )
    with pytest.raises(WorkspaceError, match=r"--against retrain: version 2, .* was vacuumed, .*: leave --against out"):
        evaluate(EvaluateConfig(workspace=root, against="retrain"))


def test_an_original_that_is_kept_serves_evaluation_as_before(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    assert evaluate(EvaluateConfig(workspace=root, against="retrain", references=1)) == 0
    vacuumed(root, 3)
    assert report_of(root, "vacuum-000004")["versions_holding_erased"] == [2, 3]
    assert evaluate(EvaluateConfig(workspace=root, against="retrain", references=1)) == 0
    before, after = (report_of(root, f"evaluate-00000{number}-against-retrain") for number in (3, 4))
    for key in ("methods", "erased", "recovery_pairs"):
        assert before[key] == after[key]


def test_evaluation_of_an_older_version(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, pair(ROWS[0]))
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    run(root, *BATCH)
    here = report_of(root, "evaluate-000003")
    assert evaluate(EvaluateConfig(workspace=root, version=3)) == 0
    assert report_of(root, "evaluate-000003")["methods"] == here["methods"]
    vacuumed(root)
    with pytest.raises(WorkspaceError, match=r"version 3 of .* was vacuumed"):
        evaluate(EvaluateConfig(workspace=root, version=3))


def test_exports_of_vacuumed_versions_are_refused_and_training_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    after = vacuumed(root)
    for name, changes in (("a", {"version": 2}), ("b", {"since": 2})):
        remedy = "leave --since out to export all rows" if "since" in changes else "name a version from 4 to 4"
        with pytest.raises(WorkspaceError, match=rf"version 2 of .* was vacuumed.*: {remedy}"):
            export(ExportConfig(workspace=root, to=tmp_path / f"{name}.npz", **changes))
    assert export(ExportConfig(workspace=root, to=tmp_path / "c.npz")) == 0
    assert train(TrainConfig(workspace=root, dim=3, epochs=1)) == 0
    again = open_version(Workspace(root), check_content=True)
    assert (again.manifest.version, again.model.trained_interactions) == (5, len(ROWS) - len(ERASED))
    assert again.forgotten_rows().tolist() == after.forgotten_rows().tolist()
    run(root, pair(ROWS[60]))
    assert evaluate(EvaluateConfig(workspace=root, against="retrain", references=1)) == 0


def test_a_whole_item_that_went_is_no_row_of_an_export(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, whole_item(4), pair(ROWS[60]))
    assert export(ExportConfig(workspace=root, to=tmp_path / "before.npz")) == 0
    vacuumed(root)
    assert export(ExportConfig(workspace=root, to=tmp_path / "after.npz")) == 0
    before, after = (np.load(tmp_path / f"{name}.npz") for name in ("before", "after"))
    assert all(np.array_equal(before[name], after[name]) for name in before.files if name != "manifest")


# ---------------------------------------------------------------------------------------------------- what may go wrong


def test_the_workspace_must_not_be_in_use(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    with version.workspace.lock("train"), pytest.raises(WorkspaceBusyError, match="is in use by job train"):
        vacuum(VacuumConfig(workspace=tmp_path / "ws", keep_versions=1))


def test_a_folder_without_a_workspace_and_no_version_to_keep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="holds no workspace"):
        vacuum(VacuumConfig(workspace=tmp_path / "none", keep_versions=1))
    assert list(tmp_path.iterdir()) == []
    small_workspace(tmp_path / "ws")
    with pytest.raises(ConfigError, match="--keep-versions = 0"):
        vacuum(VacuumConfig(workspace=tmp_path / "ws", keep_versions=0))


def test_a_damaged_file_stops_it_before_anything_is_deleted(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    version = run(root, *BATCH)
    path = root / version.manifest.examples.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    before = tree(root)
    with pytest.raises(WorkspaceError, match="is damaged"):
        vacuum(VacuumConfig(workspace=root, keep_versions=1))
    assert tree(root) == before


def test_a_quarantine_that_cannot_be_read_stops_it_too(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    (root / "quarantine").mkdir()
    (root / "quarantine" / "rows.parquet").write_bytes(b"no parquet")
    before = tree(root)
    with pytest.raises(WorkspaceError, match=r"rows\.parquet cannot be read .*: delete it, or restore it"):
        vacuum(VacuumConfig(workspace=root, keep_versions=1))
    assert tree(root) == before


_KILLED = """
import os, signal, sys
from pathlib import Path
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
name, count = sys.argv[2], int(sys.argv[3])
real = getattr(os, name)
def call(*args, **kwargs):
    global count
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    count -= 1
    return real(*args, **kwargs)
setattr(os, name, call)
vacuum(VacuumConfig(workspace=Path(sys.argv[1]), keep_versions=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "count", "version"),
    [("rename", 0, 3), ("rename", 3, 3), ("fsync", 12, 3), ("link", 0, 3), ("unlink", 1, 4), ("unlink", 7, 4)],
)
def test_a_vacuum_that_is_killed_leaves_a_whole_version_and_is_finished_by_the_next(
    tmp_path: Path, call: str, count: int, version: int
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    before = run(root, *BATCH)
    embeddings, rows = before.embeddings(), before.train().rows
    undisturbed = copy(root, tmp_path / "undisturbed")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(root), call, str(count)], cwd=_ROOT, check=False)
    assert killed.returncode == -9
    seen = open_version(Workspace(root), check_content=True)
    assert seen.manifest.version == version
    assert np.array_equal(seen.embeddings(), embeddings)
    assert seen.train().rows.tolist() == rows.tolist()
    assert len(data_files(root)) > len(listed(seen)) or version == 3
    after, expected = vacuumed(root), vacuumed(undisturbed)
    assert data_files(root) == data_files(undisturbed) == listed(after) == listed(expected)
    assert after.manifest.version == 4
    assert not [name for name in tree(root) if ".writing-" in name]
