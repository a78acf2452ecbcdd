"""jobs/restore.py: an older model is current again, and nothing that was erased since comes back with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import ConfigError, SolveError, WorkspaceBusyError, WorkspaceError
from ifru_dist.pipelines import catching_up as pipeline
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.restore import RestoreConfig, restore
from ifru_dist.pipelines.solving import SolveFlags
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.unlearn import RETRAINING_DUE
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.commits import commit_calibration
from ifru_dist.workspace.manifest import Calibration
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.appended import FRESH, NEW_USER, appended
from tests.pipelines.batches import BATCH, MODELS, ROWS, copy, report_of, run
from tests.pipelines.planted import requests_of, trained
from tests.pipelines.small import BUSY, SIZES, one_torch_thread, pair, small_workspace, tree, whole_item, whole_user
from tests.pipelines.test_vacuum import same_model

_ROOT = Path(__file__).resolve().parents[2]
SECOND = [pair(ROWS[60]), whole_user(3)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def config(root: Path, version: int, **changes: Any) -> RestoreConfig:
    return RestoreConfig(**{"workspace": root, "version": version, "workers": 0, "residual_budget": 100} | changes)


def restored(root: Path, version: int, **changes: Any) -> Version:
    """Run the job; returns the version after it."""
    assert restore(config(root, version, **changes)) == 0
    return open_version(Workspace(root), check_content=True)


def refuse(root: Path, version: int, error: type[Exception], *expected: str, **changes: Any) -> None:
    """The job fails, and leaves every byte as it was."""
    before = tree(root)
    with pytest.raises(error) as caught:
        restore(config(root, version, **changes))
    for part in expected:
        assert part in str(caught.value)
    assert tree(root) == before


def assert_same_data(one: Version, other: Version) -> None:
    assert one.train().rows.tolist() == other.train().rows.tolist()
    assert one.erased_ids().tolist() == other.erased_ids().tolist()
    assert one.forgotten_rows().tolist() == other.forgotten_rows().tolist()
    for part in ("valid", "test"):
        assert one.held_out(part).rows.tolist() == other.held_out(part).rows.tolist()
    for table in range(len(one.layout.tables)):
        assert one.ids(table).equals(other.ids(table))


def assert_as_one_batch(
    root: Path, at_once: Path, version: int, *batches: list[dict[str, Any]], **solver: Any
) -> Version:
    """Erase batch after batch and restore: the bits of one batch with all of them, from that version's model."""
    copy(root, at_once)
    expected = run(at_once, *(request for batch in batches for request in batch), **solver)
    for batch in batches:
        last = run(root, *batch, **solver)
    after = restored(root, version, **solver)
    assert same_model(expected, after)
    assert not same_model(last, after)
    assert_same_data(after, expected)
    assert after.model.unsolved_interactions == expected.model.unsolved_interactions
    assert after.manifest.requests == last.manifest.requests
    assert after.manifest.suppression == last.manifest.suppression
    assert (after.manifest.kind, after.manifest.version) == ("restore", last.manifest.version + 1)
    return after


# ------------------------------------------------------------------------------------------------------------- the same


@MODELS
def test_a_restored_model_is_that_of_one_batch_from_it(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    after = assert_as_one_batch(root, tmp_path / "other", 2, BATCH, SECOND, row_budget=30)
    report = report_of(root, "restore-000005")
    unlearned = report_of(tmp_path / "other", "unlearn-000003")
    assert (report["version_before"], report["version_after"], report["restored_version"]) == (4, 5, 2)
    assert report["interactions_erased"] == unlearned["interactions_erased"] == after.manifest.n_erased
    for key in ("rows_updated", "rows_forgotten", "users_touched", "items_touched", "influence_residual", "solver"):
        assert report[key] == unlearned[key]
    assert report["job"] == "restore"
    assert not {"requests", "not_applied", "held_out_erased"} & set(report)
    documented = (_ROOT / "docs" / "reports.md").read_text().split("\n## restore")[1].split("\n## ")[0]
    for key in ("restored_version", "interactions_erased"):
        assert f"`{key}`" in documented


def test_so_is_one_that_was_unlearned_from_before(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH[:2])
    assert_as_one_batch(root, tmp_path / "other", 3, BATCH[2:], SECOND)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "dense"), [({"model": "mf", "loss": "bpr", "negatives": 2}, "frozen"), ({"model": "neumf"}, "full")]
)
def test_so_is_one_of_other_kinds(tmp_path: Path, options: dict[str, Any], dense: str) -> None:
    before = trained(tmp_path / "ws", **options)
    requests = requests_of(before)
    batches = requests[:2], requests[2:]
    after = assert_as_one_batch(before.workspace.root, tmp_path / "other", 2, *batches, dense=dense)
    assert (dense == "full") == any(
        not np.array_equal(before.dense()[name], value) for name, value in after.dense().items()
    )


@pytest.mark.slow
def test_workers_on_ray_give_the_same_bits(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    other = copy(root, tmp_path / "other")
    assert same_model(restored(root, 2), restored(other, 2, workers=2))


def test_after_a_compaction_it_is_the_same(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    other = copy(root, tmp_path / "other")
    assert vacuum(VacuumConfig(workspace=other, keep_versions=3)) == 0
    plain, compact = restored(root, 2), restored(other, 2)
    assert same_model(plain, compact)
    assert_same_data(plain, compact)
    assert vacuum(VacuumConfig(workspace=other, keep_versions=1)) == 0
    kept = open_version(Workspace(other), check_content=True)
    assert same_model(plain, kept)
    assert_same_data(plain, kept)


# --------------------------------------------------------------------------------------------------- without a solver


def test_nothing_is_solved_where_nothing_was_erased_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    run(root, *BATCH)
    erased = open_version(Workspace(root))
    assert train(TrainConfig(workspace=root, dim=3, epochs=1)) == 0
    monkeypatch.setattr(pipeline, "run_on_workers", None)
    after = restored(root, 3)
    assert after.model == erased.model
    assert same_model(after, erased)
    assert_same_data(after, erased)
    report = report_of(root, "restore-000005")
    assert (report["interactions_erased"], report["rows_updated"], report["solver"]) == (0, 0, None)
    assert after.original().manifest.version == before.manifest.version


def test_rows_without_interactions_that_were_forgotten_since_are_reset_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    forgotten = run(root, whole_item(SIZES[1] - 1))  # the item without an interaction
    monkeypatch.setattr(pipeline, "run_on_workers", None)
    after = restored(root, 2)
    assert same_model(after, forgotten)
    assert not same_model(after, before)
    assert after.forgotten_rows().tolist() == [sum(SIZES) - 1]
    assert report_of(root, "restore-000004")["rows_forgotten"] == 1


# ----------------------------------------------------------------------------------------------------------- afterwards


def test_a_restored_model_is_one_to_go_on_with(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    run(root, *BATCH)
    assert train(TrainConfig(workspace=root, dim=3, epochs=1)) == 0
    run(root, pair(ROWS[60]))
    after = restored(root, 2)
    assert after.model.spec == before.model.spec
    assert run(root, *BATCH, pair(ROWS[60])).manifest == after.manifest  # all of it is known to be erased
    last = run(root, *SECOND)
    assert last.manifest.version == 7
    assert last.model.trained_version == 2
    assert evaluate(EvaluateConfig(workspace=root, against="retrain", references=1)) == 0
    report = report_of(root, "evaluate-000007-against-retrain")
    assert report["erased"] == last.manifest.n_erased
    assert set(report["methods"]) == {"original", "unlearned", "retrained", "retrained_spread"}


def test_a_model_past_its_budget_is_restored_and_the_status_says_so(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    assert restore(config(root, 2, residual_budget=0)) == RETRAINING_DUE
    assert open_version(Workspace(root)).manifest.kind == "restore"
    assert report_of(root, "restore-000004")["residual_budget"]["retraining_due"]


# ---------------------------------------------------------------------------------------------------------- calibration


def calibrated(root: Path, damping: float) -> Version:
    """A calibration of the current model that found a damping."""
    version = open_version(Workspace(root))
    found = Calibration(
        damping=damping,
        gap=0.1,
        gap_do_nothing=0.2,
        interactions=9,
        seed=0,
        version=version.manifest.version,
        solver=SolveFlags().solver_settings(),
    )
    commit_calibration(version, found)
    return open_version(version.workspace)


def test_a_version_of_before_the_calibration_of_its_training_gets_that_calibration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    known = calibrated(root, 0.7).model.calibration
    expected = run(copy(root, tmp_path / "other"), *BATCH)
    run(root, *BATCH)
    assert train(TrainConfig(workspace=root, dim=3, epochs=1)) == 0
    calibrated(root, 0.9)
    capsys.readouterr()
    after = restored(root, 2)
    assert after.model.calibration == known
    assert same_model(after, expected)
    report = report_of(root, "restore-000007")
    assert (report["solver"]["damping"], report["solver"]["damping_source"]) == (0.7, "calibrated")
    assert report["calibration_of"] == 3
    assert "the calibration that made version 3, which is of the same training, is its own" in capsys.readouterr().out
    documented = (_ROOT / "docs" / "reports.md").read_text().split("\n## restore")[1].split("\n## ")[0]
    assert "`calibration_of`" in documented


def test_a_version_keeps_a_calibration_of_its_own_and_gets_none_of_another_training(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    first = calibrated(root, 0.7).model.calibration
    calibrated(root, 0.8)
    other = copy(root, tmp_path / "other")
    after = restored(root, 3)
    assert after.model.calibration == first
    assert report_of(root, "restore-000005")["calibration_of"] is None
    small_workspace(tmp_path / "new")
    assert train(TrainConfig(workspace=tmp_path / "new", dim=3, epochs=1)) == 0
    calibrated(tmp_path / "new", 0.9)
    assert restored(tmp_path / "new", 2).model.calibration is None
    assert report_of(tmp_path / "new", "restore-000005")["calibration_of"] is None
    assert restored(other, 2).model.calibration.damping == 0.8


# -------------------------------------------------------------------------------------------------------------- refused


def test_versions_that_cannot_be_restored_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    refuse(root, 3, ConfigError, "--version = 3: this version is current already")
    refuse(root, 1, WorkspaceError, "version 1 of", "holds no model", "jobs/train.py")
    refuse(root, 9, WorkspaceError, "has no version 9: it has 1 to 3")
    refuse(root, 2, ConfigError, "--dense = full", dense="full")
    vacuum(VacuumConfig(workspace=root, keep_versions=2))
    refuse(root, 2, WorkspaceError, "version 2 of", "was vacuumed")


def test_a_model_of_before_rows_were_appended_is_that_of_a_workspace_without_them(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name="lightgcn")
    copy(root, tmp_path / "plain")
    plain = run(tmp_path / "plain", *BATCH)
    appended(root, FRESH)
    run(root, *BATCH)
    assert train(TrainConfig(workspace=root, dim=3, epochs=1)) == 0
    run(root, {"user": str(NEW_USER), "item": None, "scope": "user"})
    after = restored(root, 2)
    sizes, items = plain.layout.sizes, after.layout.offsets[1]
    old = [after.embeddings()[: sizes[0]], after.embeddings()[items : items + sizes[1]]]
    assert np.concatenate(old).tobytes() == plain.embeddings().tobytes()
    assert not after.embeddings()[sizes[0]].any()
    assert after.embeddings()[sizes[0] + 1].any()
    assert (after.model.trained_examples, after.model.trained_sizes) == (plain.manifest.n_examples, sizes)
    assert after.manifest.n_erased > plain.manifest.n_erased
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    assert report_of(root, "evaluate-000007")["erased"] == plain.manifest.n_erased
    assert run(root, pair(ROWS[60])).model.trained_examples == plain.manifest.n_examples


def test_a_solver_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    real = pipeline.run_on_workers

    def failing(*arguments: Any) -> Any:
        return [replace(outcome, status="diverged") for outcome in real(*arguments)]

    monkeypatch.setattr(pipeline, "run_on_workers", failing)
    refuse(root, 2, SolveError, "the solver ended with diverged", "nothing was committed")


def test_the_workspace_must_not_be_in_use(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    run(tmp_path / "ws", whole_user(BUSY))
    with version.workspace.lock("train"), pytest.raises(WorkspaceBusyError, match="is in use by job train"):
        restore(config(tmp_path / "ws", 2))
