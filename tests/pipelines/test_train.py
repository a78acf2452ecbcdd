"""Training and importing on a small workspace: what the new version holds, and that a failure leaves nothing behind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import ConfigError, IfruError, InputError, TrainingError, WorkspaceBusyError, WorkspaceError
from ifru_dist.models.initial import initial_embeddings
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import BUSY, SIZES, erase, pair, small_workspace, tree, whole_item, whole_user
from tests.workspace.datasets import random_dataset
from tests.workspaces import item_id, user_id

OPTIONS = {"epochs": 3, "patience": 3, "batch_size": 64, "learning_rate": 0.01, "seed": 4}


def config(root: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(**{"workspace": root, "dim": 5, "l2": 0.01, **OPTIONS} | changes)


def run(root: Path, **changes: Any) -> Version:
    """Train or import; returns the version after it."""
    assert train(config(root, **changes)) == 0
    return open_version(Workspace(root), check_content=True)


def report_of(root: Path, version: int) -> dict[str, Any]:
    return json.loads((root / "reports" / f"train-{version:06d}" / "report.json").read_text())


def refuse(root: Path, error: type[IfruError], *expected: str, **changes: Any) -> None:
    """The job fails with a message of one line, and leaves every byte of the workspace as it was."""
    before = tree(root.parent)
    with pytest.raises(error) as caught:
        train(config(root, **changes))
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root.parent) == before


# ------------------------------------------------------------------------------------------------------------ trained


@pytest.mark.parametrize("model", ["mf", "lightgcn"])
def test_the_new_version_holds_what_the_training_loop_made(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    files = tree(root)
    after = run(root, model=model, layers=2)
    spec = ModelSpec(name=model, dim=5, layers=2, l2=0.01)
    fitted = fit(
        spec,
        SIZES,
        before.train(),
        auc_validation(before.held_out("valid")),
        TrainOptions(**OPTIONS),
        show_progress=False,
    )
    assert np.array_equal(after.embeddings(), fitted.parameters.embeddings)
    record = after.model
    assert (record.spec, record.source, record.seed, record.trained_version) == (spec, "trained", 4, 3)
    assert record.options == {**OPTIONS, "optimiser": "adam", "gradient_tolerance": 1e-4}
    assert record.deltas == ()
    assert (after.manifest.kind, after.manifest.parent) == ("train", before.workspace.digest(2))
    assert after.manifest.examples == before.manifest.examples
    assert files.items() <= tree(root).items()

    report = report_of(root, 3)
    assert (report["version_before"], report["version_after"], report["source"]) == (2, 3, "trained")
    assert report["model"]["name"] == model
    assert report["valid_auc"] == pytest.approx(fitted.valid, abs=1e-6)
    assert (report["best_epoch"], report["epochs_run"]) == (fitted.best_epoch, fitted.epochs_run)
    assert [entry["epoch"] for entry in report["history"]] == list(range(1, fitted.epochs_run + 1))
    assert report["config"]["learning_rate"] == 0.01
    assert not {"converged", "gradient_norm", "remedy"} & set(report)
    assert f"version 2 -> 3: trained {model}, 5 dimensions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("epochs", "converged", "expected"),
    [
        (400, True, "stationary: gradient norm {norm:.2g}, within the tolerance 0.001"),
        (4, False, "not stationary: gradient norm {norm:.2g} is above the tolerance 0.001: raise --epochs"),
    ],
)
def test_training_to_a_stationary_point_says_whether_it_got_there(
    tmp_path: Path, epochs: int, converged: bool, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    options = {"optimiser": "lbfgs", "epochs": epochs, "gradient_tolerance": 1e-3}
    after = run(root, l2=0.0, l2_row=0.5, **options)
    spec, data = ModelSpec(dim=5, l2_row=0.5), before.train()
    fitted = fit(spec, SIZES, data, auc_validation(data), TrainOptions(**OPTIONS | options), show_progress=False)
    assert np.array_equal(after.embeddings(), fitted.parameters.embeddings)
    assert after.model.spec == spec
    assert TrainOptions(**after.model.options) == TrainOptions(**OPTIONS | options)
    report = report_of(root, 3)
    assert (report["converged"], report["gradient_norm"]) == (converged, fitted.gradient_norm)
    assert (report["gradient_norm"] <= 1e-3) == (report["remedy"] == "") == converged
    assert report["epochs_run"] == len(report["history"]) == fitted.epochs_run
    out = capsys.readouterr().out
    assert expected.format(norm=fitted.gradient_norm) in out
    assert f"{fitted.epochs_run} iterations in " in out


def test_the_first_model_of_a_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    with workspace.lock("test"):
        write_dataset(workspace, random_dataset(3), 5)
    after = run(workspace.root, dim=None, output=tmp_path / "out")
    assert after.manifest.version == 2
    assert after.embeddings().shape == (22, 48)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["version_after"] == 2


def test_training_again_makes_a_model_that_is_its_own_original(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    first = run(root)
    second = run(root, seed=9)
    assert (first.manifest.version, second.manifest.version) == (3, 4)
    assert second.original().manifest == second.manifest
    assert first.original().manifest == first.manifest
    assert not np.array_equal(first.embeddings(), second.embeddings())
    assert np.array_equal(first.embeddings(), open_version(first.workspace, 3).embeddings())


def test_erased_interactions_are_not_learned_again(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erased = erase(root, whole_user(BUSY))
    after = run(root)
    fitted = fit(
        ModelSpec(dim=5, l2=0.01),
        SIZES,
        erased.train(),
        auc_validation(erased.held_out("valid")),
        TrainOptions(**OPTIONS),
        show_progress=False,
    )
    assert BUSY not in erased.train().rows[:, 0]
    assert np.array_equal(after.embeddings(), fitted.parameters.embeddings)
    assert after.erased_ids().tolist() == erased.erased_ids().tolist()
    assert (after.model.trained_version, after.original().manifest.version) == (4, 4)


def test_training_that_diverges_leaves_no_version(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", TrainingError, "training diverged", "a smaller --learning-rate", learning_rate=1e30)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dim": 0}, "--dim = 0: "),
        ({"l2": -1.0}, "--l2 = -1.0: "),
        ({"l2_row": -1.0}, "--l2-row = -1.0: "),
        ({"model": "svd"}, "--model = 'svd': "),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", ConfigError, expected, **changes)


def test_no_workspace_or_one_in_use_or_damaged(tmp_path: Path) -> None:
    refuse(tmp_path / "none", WorkspaceError, "holds no workspace: make one with jobs/preprocess.py")
    version = small_workspace(tmp_path / "ws")
    with version.workspace.lock("unlearn"):
        refuse(tmp_path / "ws", WorkspaceBusyError, "is in use by job unlearn")
    graph = tmp_path / "ws" / version.manifest.graph[0].path
    graph.write_bytes(graph.read_bytes()[::-1])
    refuse(tmp_path / "ws", WorkspaceError, f"{graph} is damaged", "restore the file")


# ----------------------------------------------------------------------------------------------------------- imported


def exported(embeddings: np.ndarray) -> dict[str, Any]:
    """The arrays of a file for the small workspace, with rows in another order and one more item."""
    users, items = np.arange(SIZES[0])[::-1], np.roll(np.arange(SIZES[1] + 1), 3)
    rows = np.concatenate([embeddings, np.ones((1, embeddings.shape[1]))])
    return {
        "user": rows[users],
        "user_ids": np.array([user_id(row) for row in users]),
        "item": rows[SIZES[0] + items],
        "item_ids": np.array([item_id(row) for row in items]),
    }


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(sum(SIZES), 6)).astype(np.float32)


@pytest.mark.parametrize("dim", [None, 6])
def test_an_imported_model_holds_the_embeddings_of_the_file(
    tmp_path: Path, embeddings: np.ndarray, dim: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    np.savez(tmp_path / "model.npz", **exported(embeddings))
    after = run(root, from_file=tmp_path / "model.npz", dim=dim, model="lightgcn", l2=0.3)
    assert np.array_equal(after.embeddings(), embeddings)
    assert (after.model.source, after.model.trained_version) == ("imported", 3)
    assert after.model.spec == ModelSpec(name="lightgcn", dim=6, l2=0.3)
    assert after.original().manifest == after.manifest
    report = report_of(root, 3)
    assert (report["source"], report["ignored_ids"]) == ("imported", {"user": 0, "item": 1})
    assert 0 <= report["test_auc"] <= 1
    assert "version 2 -> 3: imported lightgcn, 6 dimensions" in capsys.readouterr().out


def test_an_imported_model_can_be_unlearned(tmp_path: Path, embeddings: np.ndarray) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    np.savez(tmp_path / "model.npz", **exported(embeddings))
    run(root, from_file=tmp_path / "model.npz", dim=None)
    after = erase(root, whole_user(BUSY))
    assert after.manifest.version == 4
    assert np.abs(after.embeddings()[BUSY]).max() < 0.01
    assert after.original().manifest.version == 3


def test_what_was_erased_is_not_brought_back_by_an_import(tmp_path: Path, embeddings: np.ndarray) -> None:
    root, path = tmp_path / "ws", tmp_path / "model.npz"
    small_workspace(root)
    np.savez(path, **exported(embeddings))
    erased = erase(root, whole_user(BUSY))
    expected = f"this workspace has erased {erased.manifest.n_erased} interactions"
    refuse(root, ConfigError, str(path), expected, "--without-erased", from_file=path, dim=None)
    after = run(root, from_file=path, dim=None, without_erased=True)
    embeddings[BUSY] = 0  # the file may hold the user, but the workspace does not know the id any more
    assert np.array_equal(after.embeddings(), embeddings)
    assert report_of(root, 4)["ignored_ids"] == {"user": 1, "item": 1}
    assert after.erased_ids().tolist() == erased.erased_ids().tolist()


def test_an_import_needs_no_embeddings_of_forgotten_rows(tmp_path: Path, embeddings: np.ndarray) -> None:
    root, path = tmp_path / "ws", tmp_path / "model.npz"
    small_workspace(root)
    erase(root, whole_user(BUSY), whole_item(4))
    arrays, gone = exported(embeddings), {"user": user_id(BUSY), "item": item_id(4)}
    for table, external_id in gone.items():
        kept = arrays[f"{table}_ids"] != external_id
        arrays |= {table: arrays[table][kept], f"{table}_ids": arrays[f"{table}_ids"][kept]}
    np.savez(path, **arrays)
    after = run(root, from_file=path, dim=None, without_erased=True, model="lightgcn")
    embeddings[[BUSY, SIZES[0] + 4]] = 0
    assert np.array_equal(after.embeddings(), embeddings)
    assert report_of(root, 4)["ignored_ids"] == {"user": 0, "item": 1}
    assert after.forgotten_rows().tolist() == [BUSY, SIZES[0] + 4]
    rows = after.train().rows
    later = erase(root, pair(rows[0]), whole_user(int(rows[5, 0])))
    assert later.forgotten_rows().tolist() == sorted([BUSY, int(rows[5, 0]), SIZES[0] + 4])
    assert np.isfinite(later.embeddings()).all()
    lacking = {**arrays, "user": arrays["user"][1:], "user_ids": arrays["user_ids"][1:]}
    np.savez(path, **lacking)
    known = f"lacks 1 of the workspace's {SIZES[0] - 2} ids of table 'user'"
    refuse(root, InputError, known, from_file=path, dim=None, without_erased=True)


def test_training_anew_learns_nothing_of_forgotten_rows(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erase(root, whole_user(BUSY), whole_item(4))
    after = run(root)
    start = initial_embeddings(sum(SIZES), 5, 1e-3, OPTIONS["seed"]).numpy()
    rows = [BUSY, SIZES[0] + 4]
    assert np.array_equal(after.embeddings()[rows], start[rows])
    assert after.forgotten_rows().tolist() == rows
    assert (after.ids(0).null_count, after.ids(1).null_count) == (1, 1)
    assert not np.isin(after.held_out("test").rows, rows).any()


def _nan(arrays: dict[str, Any]) -> None:
    arrays["item"][4, 1] = np.nan


def _fewer_rows(arrays: dict[str, Any]) -> None:
    arrays["user"] = arrays["user"][:-1]


def _fewer_dimensions(arrays: dict[str, Any]) -> None:
    arrays["item"] = arrays["item"][:, :-1]


def _missing_id(arrays: dict[str, Any]) -> None:
    arrays["user"], arrays["user_ids"] = arrays["user"][1:], arrays["user_ids"][1:]


def _missing_array(arrays: dict[str, Any]) -> None:
    del arrays["item_ids"]


def _pickled(arrays: dict[str, Any]) -> None:
    arrays["item_ids"] = arrays["item_ids"].astype(object)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_nan, "array 'item' holds NaN or infinity in 1 rows, first in row 4"),
        (_fewer_rows, f"array 'user_ids' has {SIZES[0]} ids for the {SIZES[0] - 1} rows of 'user'"),
        (_fewer_dimensions, "array 'item' has 5 dimensions, the tables before it 6"),
        (_missing_id, f"array 'user_ids' lacks 1 of the workspace's {SIZES[0]} ids of table 'user': train on"),
        (_missing_array, "no array 'item_ids'"),
        (_pickled, "the embeddings cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used(
    tmp_path: Path, embeddings: np.ndarray, spoil: Callable[[dict[str, Any]], None], expected: str
) -> None:
    small_workspace(tmp_path / "ws")
    arrays = exported(embeddings)
    spoil(arrays)
    path = tmp_path / "model.npz"
    np.savez(path, **arrays)
    refuse(tmp_path / "ws", InputError, str(path), expected, from_file=path, dim=None)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "model.npz").write_bytes(b"PK\x03\x04 cut off")
    for name in ("model.npz", "missing.npz", "model.pt"):
        refuse(tmp_path / "ws", InputError, str(tmp_path / name), from_file=tmp_path / name, dim=None)


def test_another_dimension_than_the_file_has(tmp_path: Path, embeddings: np.ndarray) -> None:
    small_workspace(tmp_path / "ws")
    path = tmp_path / "model.npz"
    np.savez(path, **exported(embeddings))
    expected = f"--dim = 7: {path} holds 6 dimensions: leave --dim out"
    refuse(tmp_path / "ws", ConfigError, expected, from_file=path, dim=7)


def test_the_option_is_called_from(tmp_path: Path, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    small_workspace(tmp_path / "ws")
    np.savez(tmp_path / "model.npz", **exported(embeddings))
    monkeypatch.setattr(sys, "argv", ["train.py", f"--workspace={tmp_path}/ws", f"--from={tmp_path}/model.npz"])
    with pytest.raises(SystemExit) as ended:
        run_command(TrainConfig, train)
    assert ended.value.code == 0
    assert open_version(Workspace(tmp_path / "ws")).model.source == "imported"


def test_a_report_that_could_not_be_written_is_noticed_before_training(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws" / "reports").write_text("a file")
    expected = (f"--output = None: {tmp_path}/ws/reports: ", "give a folder that can be written")
    refuse(tmp_path / "ws", ConfigError, *expected)
