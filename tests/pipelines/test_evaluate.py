"""Evaluation on a small workspace: figures against an independent computation; nothing but a report is made."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version
from tests.influence import reference
from tests.pipelines.small import (
    BUSY,
    SIZES,
    erase,
    pair,
    small_interactions,
    small_workspace,
    tree,
    whole_user,
)
from tests.workspace.datasets import random_dataset, random_interactions

ROWS = small_interactions().rows
LAYERS = {"mf": (1.0,), "lightgcn": (0.5, 0.5)}
MODELS = pytest.mark.parametrize("model", ["mf", "lightgcn"])


@pytest.fixture(params=["mf", "lightgcn"])
def erased(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Version]:
    """A version that erased the pair of the first test example and a whole user."""
    small_workspace(tmp_path / "ws", name=request.param)
    return erase(tmp_path / "ws", pair(ROWS[0]), whole_user(BUSY))


def run(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Evaluate; returns the report, made under the name and nothing else."""
    before = tree(root)
    assert evaluate(EvaluateConfig(workspace=root, **changes)) == 0
    after = tree(root)
    changed = {path for path in before | after if before.get(path, b"none") != after.get(path, b"none")}
    assert all(path.startswith("reports") for path in changed)
    return json.loads((root / "reports" / name / "report.json").read_text())


def dense_scores(version: Version, rows: np.ndarray, embeddings: np.ndarray | None = None) -> np.ndarray:
    """Scores of row pairs by dense propagation over the version's training positives."""
    train = version.train()
    case = reference.Case(
        sizes=SIZES,
        pairs=torch.from_numpy(train.rows),
        label=torch.from_numpy(train.labels).double(),
        erased=torch.zeros(len(train), dtype=torch.bool),
        embeddings=torch.from_numpy(version.embeddings() if embeddings is None else embeddings).double(),
        layer_weights=LAYERS[version.model.spec.name],
        l2=0.0,
        partitions=1,
    )
    outputs = (reference.propagation(case, ~case.erased) @ case.embeddings).numpy()
    return (outputs[rows[:, 0]] * outputs[rows[:, 1]]).sum(axis=1)


def gap(scores: np.ndarray, others: list[np.ndarray]) -> float:
    return float(np.abs(scores - np.mean(others, axis=0)).mean())


@MODELS
def test_without_erasure_there_is_one_model_and_its_auc(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = small_workspace(tmp_path / "ws", name=model)
    report = run(tmp_path / "ws", "evaluate-000002")
    test = version.held_out("test")
    expected = roc_auc_score(test.labels, dense_scores(version, test.rows))
    assert report["auc"] == pytest.approx(expected, abs=1e-9)
    assert report["methods"] == {"unlearned": {"auc": report["auc"], "auc_or": None, "auc_and": None}}
    assert (report["version"], report["erased"], report["model"]["name"]) == (2, 0, model)
    assert not {"noise_floor", "logit_gap_erased", "logit_gap_do_nothing", "membership_auc"} & set(report)
    printed = capsys.readouterr().out
    assert "| current |" in printed
    assert "unlearned" not in printed
    assert "0 interactions erased since training" in printed


def test_after_erasure_the_original_stands_beside(erased: Version) -> None:
    report = run(erased.workspace.root, "evaluate-000003")
    test, original = erased.held_out("test"), erased.original()
    gone = erased.all_examples().take(erased.erased_ids())
    touched = np.isin(test.rows, gone.rows)
    for name, version in (("original", original), ("unlearned", erased)):
        scores = dense_scores(version, test.rows)
        for figure, mask in (("auc", touched[:, 0] | True), ("auc_or", touched.any(1)), ("auc_and", touched.all(1))):
            labels = test.labels[mask]
            expected = roc_auc_score(labels, scores[mask]) if len(set(labels)) == 2 else None
            assert report["methods"][name][figure] == pytest.approx(expected, abs=1e-9)
    figures = ("auc", "auc_or", "auc_and", "recovery_at_10", "recovery_at_20", "recovery_at_50")
    assert {figure: report[figure] for figure in figures} == report["methods"]["unlearned"]
    assert report["methods"]["original"]["auc_or"] is not None
    assert report["erased"] == len(gone) > 3
    assert "noise_floor" not in report


def test_recovery_reads_the_outputs_that_scores_are_made_of(erased: Version) -> None:
    outputs = Scorer(erased.model.spec, erased.train(), erased.parameters()).outputs
    users, items = ROWS[:50].T
    products = (outputs[users].astype(np.float64) * outputs[items]).sum(axis=1)
    np.testing.assert_allclose(products, dense_scores(erased, ROWS[:50]), rtol=1e-5, atol=1e-6)


def test_against_retraining(erased: Version, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(erased.workspace.root, "evaluate-000003-against-retrain", against="retrain", references=2)
    options = TrainOptions(**erased.model.options)
    references = [
        fit(
            erased.model.spec,
            SIZES,
            erased.train(),
            auc_validation(erased.held_out("valid")),
            TrainOptions(**erased.model.options | {"seed": options.seed + number}),
            show_progress=False,
        ).parameters.embeddings
        for number in (1, 2)
    ]
    gone, test = erased.all_examples().take(erased.erased_ids()), erased.held_out("test")
    for figure, rows in (("logit_gap_erased", gone.rows), ("logit_gap_test", test.rows)):
        retrained = [dense_scores(erased, rows, embeddings) for embeddings in references]
        expected = {
            "original": gap(dense_scores(erased.original(), rows), retrained),
            "unlearned": gap(dense_scores(erased, rows), retrained),
            "retrained": gap(retrained[0], retrained[1:]),  # each of two lies as far from the other
        }
        for name, value in expected.items():
            assert report["methods"][name][figure] == pytest.approx(value, rel=1e-4, abs=1e-9)
    methods = report["methods"]
    assert report["logit_gap_do_nothing"] == methods["original"]["logit_gap_erased"]
    assert report["noise_floor"] == methods["retrained"]["logit_gap_erased"] > 0
    assert methods["original"]["logit_gap_erased"] != methods["unlearned"]["logit_gap_erased"]
    assert {name: report[name] for name in methods["unlearned"]} == methods["unlearned"]
    signs = np.where(gone.labels > 0.5, -1, 1)
    logloss = np.logaddexp(0, signs * dense_scores(erased, gone.rows)).mean()
    assert report["logloss_erased"] == pytest.approx(logloss, rel=1e-5)
    assert set(methods) == {"original", "unlearned", "retrained", "retrained_spread"}
    for name, figures in methods.items():
        assert 0 <= figures["membership_auc"] <= 1
        assert set(figures) == set(methods["original"])
        assert "membership_attack_auc" not in figures, name
    assert not {"membership_attack", "recovered_share"} & set(report)
    assert report["erased"] == len(gone)
    assert report["references"] == len(report["seconds"]["references"]) == 2
    assert report["seconds"]["retrain"] > 0
    assert "| retrained |" in capsys.readouterr().out


def test_a_single_reference_has_no_noise_floor(erased: Version) -> None:
    report = run(
        erased.workspace.root, "evaluate-000003-against-retrain", against="retrain", references=1, reference_seed=7
    )
    assert report["noise_floor"] is None
    assert report["logit_gap_erased"] > 0


def test_references_depend_on_their_seed(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erase(root, whole_user(BUSY))
    gaps = [
        run(root, "evaluate-000003-against-retrain", against="retrain", references=1, reference_seed=seed)[
            "logit_gap_erased"
        ]
        for seed in (2, 8, None)
    ]
    assert gaps[0] != gaps[1]
    assert gaps[0] == gaps[2]  # the model's own seed is 1


def test_the_report_goes_where_it_is_wanted(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    before = tree(tmp_path / "ws")
    evaluate(EvaluateConfig(workspace=tmp_path / "ws", output=tmp_path / "out"))
    assert tree(tmp_path / "ws") == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "summary.md"}


def refuse(root: Path, error: type[Exception], expected: str, **changes: Any) -> None:
    before = tree(root.parent)
    with pytest.raises(error, match=expected):
        evaluate(EvaluateConfig(workspace=root, **changes))
    assert tree(root.parent) == before


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    expected = r"--against retrain: version \d has erased nothing since it was trained: run jobs/unlearn.py first"
    refuse(root, ConfigError, expected, against="retrain")
    erase(root, whole_user(BUSY))
    train(TrainConfig(workspace=root, epochs=1, dim=4))
    refuse(root, ConfigError, expected, against="retrain")
    assert run(root, "evaluate-000004")["erased"] == 0


def test_no_workspace_no_model_or_a_damaged_file(tmp_path: Path) -> None:
    refuse(tmp_path / "none", WorkspaceError, "holds no workspace: make one with jobs/preprocess.py")
    workspace = Workspace(tmp_path / "data")
    with workspace.lock("test"):
        write_dataset(workspace, random_dataset(1), 5)
    refuse(workspace.root, WorkspaceError, "holds no model yet: make one with jobs/train.py")
    version = small_workspace(tmp_path / "ws")
    table = tmp_path / "ws" / version.model.base[0].path
    table.write_bytes(table.read_bytes()[::-1])
    refuse(tmp_path / "ws", WorkspaceError, f"{table} is damaged")


def test_no_references_is_refused(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", ConfigError, "--references = 0: ", references=0)


def test_a_report_that_could_not_be_written_is_noticed_before_anything_is_measured(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws" / "reports").write_text("a file")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=f"--output = None: {tmp_path}/ws/reports: .* can be written"):
        evaluate(EvaluateConfig(workspace=tmp_path / "ws"))
    assert tree(tmp_path) == before


def test_test_positives_are_ranked_among_all_items(tmp_path: Path) -> None:
    held_out = random_interactions(np.random.default_rng(11), SIZES, 60)
    version = small_workspace(tmp_path / "ws", held_out=held_out, name="lightgcn")
    report = run(tmp_path / "ws", "evaluate-000002")
    known = {tuple(pair) for pair in version.train().positives().tolist()}
    asked = {tuple(pair) for pair in held_out.positives().tolist()} - known
    recalls = []
    for user in {user for user, _ in asked}:
        candidates = [item for item in range(SIZES[0], sum(SIZES)) if (user, item) not in known]
        scores = dense_scores(version, np.array([(user, item) for item in candidates]))
        first = {candidates[place] for place in np.argsort(-scores)[:20]}
        wanted = {item for owner, item in asked if owner == user}
        recalls.append(len(wanted & first) / len(wanted))
    assert report["recall_at_20"] == report["methods"]["unlearned"]["recall_at_20"]
    assert report["recall_at_20"] == pytest.approx(np.mean(recalls), abs=1e-12)
    assert 0 < report["ndcg_at_20"] < 1
