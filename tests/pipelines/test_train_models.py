"""Training every shipped model, and one of one's own, with every loss; what it is stopped by, and its figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import ConfigError, InputError
from ifru_dist.evaluation.candidates import Candidates
from ifru_dist.evaluation.top_k import TopK
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.predict import Predictor
from ifru_dist.models.propagation import Propagation
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import SIZES, small_interactions, small_workspace
from tests.workspaces import make_workspace

OWN = "tests.models.own_models:Scaled"
OPTIONS = {"epochs": 4, "patience": 4, "batch_size": 64, "learning_rate": 0.02, "init_std": 0.1, "seed": 4}
MODELS = ["mf", "biased-mf", "lightgcn", "neumf", "fm", OWN]
NOTHING = Interactions(np.empty((0, 2), np.int64), np.empty(0, np.float32))


def run(root: Path, **changes: Any) -> tuple[Version, dict[str, Any]]:
    """The version after training, and the report."""
    assert train(TrainConfig(**{"workspace": root, "dim": 5, **OPTIONS} | changes)) == 0
    version = open_version(Workspace(root), check_content=True)
    name = f"train-{version.manifest.version:06d}"
    return version, json.loads((root / "reports" / name / "report.json").read_text())


def workspace_of_positives(root: Path, held_out: Interactions | None = None) -> Version:
    """A workspace whose interactions all have the label 1; held out is a tenth of them unless given."""
    rows = np.unique(small_interactions().positives(), axis=0)
    data = Interactions(rows, np.ones(len(rows), np.float32))
    out = np.arange(len(rows)) % 10 == 0
    embeddings = np.zeros((sum(SIZES), 4))
    held_out = data.take(out) if held_out is None else held_out
    return make_workspace(root, SIZES, data.take(~out), embeddings, ModelSpec(dim=4), 7, held_out)


@pytest.mark.parametrize("loss", ["bce", "squared", "bpr"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_with_every_loss(tmp_path: Path, model: str, loss: str) -> None:
    small_workspace(tmp_path / "ws")
    version, report = run(tmp_path / "ws", model=model, loss=loss, hidden=(6,), negatives=2)
    spec = ModelSpec(name=model, dim=5, hidden=(6,), loss=loss, negatives=2, init_std=0.1)
    assert version.model.spec == spec
    parameters, built = version.parameters(), build_model(spec)
    assert parameters.embeddings.shape == (sum(SIZES), built.width)
    initial = built.initial_dense(torch.Generator().manual_seed(4))
    assert {name: values.shape for name, values in parameters.dense.items()} == {
        name: tuple(values.shape) for name, values in initial.items()
    }
    # Of a difference of two scores nothing is left of a bias of all: it is not moved.
    moved = {name for name, values in initial.items() if not np.array_equal(values.numpy(), parameters.dense[name])}
    assert moved == set(initial) - ({"bias"} if loss == "bpr" else set())
    losses = [entry["loss"] for entry in report["history"]]
    assert losses[-1] < losses[0]
    test = version.held_out("test")
    assert report["test_auc"] == Scorer(spec, version.train(), parameters).auc(test) is not None


@pytest.mark.parametrize("model", MODELS)
def test_figures_of_the_committed_model_are_those_of_its_parameters(tmp_path: Path, model: str) -> None:
    workspace_of_positives(tmp_path / "ws")
    version, report = run(tmp_path / "ws", model=model, loss="bpr", layers=2)
    spec, data, parameters = version.model.spec, version.train(), version.parameters()
    built = build_model(spec)
    propagation = Propagation(data.positives(), sum(SIZES), built.layer_weights, torch.float32)
    outputs = propagation.apply(torch.from_numpy(parameters.embeddings))
    predictor = Predictor(built, outputs, parameters.dense_tensors(torch.float32))
    candidates = Candidates(known=data.rows, sizes=SIZES, excluded_rows=np.empty(0, np.int64))
    expected = TopK(version.held_out("test"), candidates).figures(predictor.item_scores(range(SIZES[0], sum(SIZES))))
    assert {name: report[f"test_{name}"] for name in expected} == pytest.approx(expected)
    assert 0 < report["test_recall_at_20"] <= 1
    assert report["valid_recall_at_20"] == report["test_recall_at_20"]  # they are the same pairs here
    assert (report["valid_auc"], report["test_auc"]) == (None, None)
    recalls = [entry["valid_recall_at_20"] for entry in report["history"]]
    assert report["valid_recall_at_20"] == pytest.approx(max(recalls))
    assert report["best_epoch"] == 1 + int(np.argmax(recalls))


def test_recall_stops_training(tmp_path: Path) -> None:
    workspace_of_positives(tmp_path / "ws")
    _, report = run(tmp_path / "ws", loss="bpr", epochs=200, patience=3, learning_rate=0.05)
    assert report["stopped_by"] == "valid_recall_at_20"
    assert report["epochs_run"] == report["best_epoch"] + 3 < 200


def test_without_validation_all_epochs_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace_of_positives(tmp_path / "ws", held_out=NOTHING)
    _, report = run(tmp_path / "ws", loss="bpr", patience=1, learning_rate=0.5)
    assert (report["stopped_by"], report["best_epoch"], report["epochs_run"]) == ("epochs", 4, 4)
    assert "valid_recall_at_20" not in report
    assert (report["test_auc"], report["test_recall_at_20"], report["test_ndcg_at_20"]) == (None, None, None)
    assert "nothing to validate with: all 4 epochs are trained, and the last is kept" in capsys.readouterr().out


def test_a_model_of_three_fields_is_trained_by_its_auc_and_has_no_ranking(tmp_path: Path) -> None:
    generator, sizes = np.random.default_rng(1), (12, 9, 4)
    columns = [generator.integers(0, size, 200) + sum(sizes[:table]) for table, size in enumerate(sizes)]
    data = Interactions(np.stack(columns, axis=1), (generator.random(200) < 0.5).astype(np.float32))
    spec = ModelSpec(name="fm", dim=5, fields=3, init_std=0.1)
    make_workspace(tmp_path / "ws", sizes, data, np.zeros((25, 6)), spec, 3, data)
    version, report = run(tmp_path / "ws", model="fm")
    assert version.model.spec == spec
    assert version.parameters().embeddings.shape == (25, 6)
    assert report["test_auc"] > 0.6
    assert (report["test_recall_at_20"], report["test_ndcg_at_20"]) == (None, None)
    with pytest.raises(ConfigError, match=r"--model = mf: .* has 3 fields: use fm"):
        run(tmp_path / "ws", model="mf")


@pytest.mark.parametrize("model", ["biased-mf", "neumf", "fm"])
def test_a_model_with_its_own_parameters_is_imported(tmp_path: Path, model: str) -> None:
    before = small_workspace(tmp_path / "ws")
    made, _ = run(tmp_path / "ws", model=model, dim=4, hidden=(6,))
    parameters, path = made.parameters(), tmp_path / "model.npz"
    arrays: dict[str, Any] = {f"dense.{name}": values for name, values in parameters.dense.items()}
    for table, name in enumerate(("user", "item")):
        arrays[name] = parameters.embeddings[before.layout.table_range(table)]
        arrays[f"{name}_ids"] = before.ids(table).to_numpy(zero_copy_only=False)
        arrays[f"{name}_ids"] = arrays[f"{name}_ids"].astype(str) if table else arrays[f"{name}_ids"]
    np.savez(path, **arrays)
    version, report = run(tmp_path / "ws", model=model, dim=None, hidden=(6,), from_file=path)
    assert version.model.spec.dim == 4
    assert np.array_equal(version.embeddings(), parameters.embeddings)
    assert all(np.array_equal(values, parameters.dense[name]) for name, values in version.dense().items())
    assert len(version.dense()) == len(parameters.dense)
    assert report["test_auc"] == Scorer(made.model.spec, made.train(), parameters).auc(made.held_out("test"))
    if model == "neumf":
        np.savez(path, **{**arrays, "user": arrays["user"][:, :-1], "item": arrays["item"][:, :-1]})
        with pytest.raises(InputError, match="rows of 7 columns, which neumf has with no --dim: check --model"):
            run(tmp_path / "ws", model=model, dim=None, from_file=path)


def test_a_class_that_cannot_be_imported(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    with pytest.raises(ConfigError, match="--model = no_such_module:Model: cannot be imported"):
        run(tmp_path / "ws", model="no_such_module:Model")
