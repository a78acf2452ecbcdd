"""The figures of forgetting on planted preferences: every one tells doing nothing from retraining."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ifru_dist.errors import ConfigError
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines import references
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import create_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import SIZES, erase, one_torch_thread, pair, tree, whole_item, whole_user
from tests.workspaces import item_id, user_id

USERS, ITEMS = SIZES[0], 60
N_ERASED, N_TRAIN, N_TEST = 150, 1100, 700
SHADOWS = 8
AUCS = ("auc", "auc_or", "auc_and")


def planted(labels: str) -> tuple[Interactions, Interactions]:
    """Training and test pairs: users like the items of their half, with exceptions; the first N_ERASED will be erased.

    The erased labels are as the others ("true"), or all against the plan ("wrong").
    """
    generator = np.random.default_rng(7)
    cells = generator.permutation(USERS * ITEMS)[: N_TRAIN + N_TEST]
    user, item = np.divmod(cells, ITEMS)
    liked = user % 2 == item % 2
    label = liked ^ (generator.random(len(cells)) < 0.15)
    if labels == "wrong":
        label[:N_ERASED] = ~liked[:N_ERASED]
    pairs = Interactions(np.stack([user, item + USERS], axis=1), label.astype(np.float32))
    return pairs.take(np.arange(N_TRAIN)), pairs.take(np.arange(N_TRAIN, len(pairs)))


def planted_workspace(root: Path, labels: str) -> Version:
    """A workspace whose model has learned the training pairs by heart.

    Validation pairs are training pairs that stay, so that training goes on until it has.
    """
    pairs, test = planted(labels)
    ids = (
        pa.array([user_id(row) for row in range(USERS)], pa.int64()),
        pa.array([item_id(row) for row in range(ITEMS)], pa.large_string()),
    )
    workspace = Workspace(root)
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        valid = pairs.take(np.arange(N_ERASED, N_ERASED + 300))
        write_dataset(workspace, Dataset(ids=ids, train=pairs, valid=valid, test=test), 5)
    options = {"batch_size": 64, "learning_rate": 0.02, "init_std": 0.1, "epochs": 25}
    train(TrainConfig(workspace=root, dim=8, **options))
    return open_version(workspace)


def against_retraining(root: Path, **changes: Any) -> dict[str, Any]:
    assert evaluate(EvaluateConfig(workspace=root, against="retrain", **changes)) == 0
    version = open_version(Workspace(root)).manifest.version
    return json.loads((root / "reports" / f"evaluate-{version:06d}-against-retrain" / "report.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps of training only lose by a second thread."""
    with one_torch_thread():
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="module", params=["true", "wrong"])
def labels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def erased(labels: str, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A version that erased pairs of a planted workspace."""
    root = tmp_path_factory.mktemp(labels) / "ws"
    planted_workspace(root, labels)
    return erase(root, *(pair(rows) for rows in planted(labels)[0].rows[:N_ERASED]))


@pytest.fixture(scope="module")
def report(erased: Version, labels: str) -> dict[str, Any]:
    return against_retraining(erased.workspace.root, shadows=SHADOWS, erased_labels=labels)


@pytest.fixture(scope="module")
def methods(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    assert list(report["methods"]) == ["original", "retrained", "retrained_spread", "unlearned"]
    assert report["erased"] == N_ERASED
    return report["methods"]


def apart(methods: dict[str, dict[str, float]], figure: str) -> float:
    """How far above retraining doing nothing is, in standard deviations of a retraining."""
    return (methods["original"][figure] - methods["retrained"][figure]) / methods["retrained_spread"][figure]


def test_recovery_tells_doing_nothing_from_retraining(methods: dict[str, dict[str, float]]) -> None:
    assert apart(methods, "recovery_at_10") > 5
    assert methods["original"]["recovery_at_10"] > methods["retrained"]["recovery_at_10"] + 0.1
    assert methods["unlearned"]["recovery_at_10"] < methods["original"]["recovery_at_10"]


def test_recovery_is_that_of_a_plain_loop(erased: Version, report: dict[str, Any]) -> None:
    kept = {tuple(row) for row in erased.train().rows.tolist()}
    gone = erased.all_examples().take(erased.erased_ids())
    asked = gone.rows[gone.labels == 1]
    assert report["recovery_pairs"] == len(asked) > 30
    for name, version in (("original", erased.original()), ("unlearned", erased)):
        embeddings = version.embeddings().astype(np.float64)
        for k in (10, 50):
            found = []
            for user, item in asked.tolist():
                candidates = [row for row in range(USERS, USERS + ITEMS) if (user, row) not in kept]
                found.append(item in sorted(candidates, key=lambda row: -(embeddings[user] @ embeddings[row]))[:k])
            assert report["methods"][name][f"recovery_at_{k}"] == pytest.approx(np.mean(found), abs=1e-12)


def test_the_attack_tells_doing_nothing_from_retraining(
    methods: dict[str, dict[str, float]], labels: str, report: dict[str, Any]
) -> None:
    figure = "membership_attack_auc"
    assert apart(methods, figure) > 5
    assert methods["original"][figure] > (0.65 if labels == "true" else 0.9)
    if labels == "true":
        assert methods["retrained"][figure] == pytest.approx(0.5, abs=0.1)  # 3 standard errors
    else:  # mislabelled pairs fit worse than held-out ones, even worse than with half of them in the training data
        assert methods["retrained"][figure] < 0.6
    assert methods["unlearned"][figure] < methods["original"][figure]
    assert report["membership_attack"] == {
        "shadows": SHADOWS,
        "erased_pairs": N_ERASED,
        "test_pairs": N_ERASED,
        "reason": None,
    }
    assert len(report["seconds"]["shadows"]) == SHADOWS


def test_recovered_share(methods: dict[str, dict[str, float]], labels: str, report: dict[str, Any]) -> None:
    if labels == "true":
        assert "recovered_share" not in report
        return
    assert set(report["recovered_share"]) == set(AUCS)
    for figure, share in report["recovered_share"].items():
        original, unlearned, retrained = (methods[name][figure] for name in ("original", "unlearned", "retrained"))
        assert apart(methods, figure) < -3  # doing nothing is worse
        assert share["value"] == pytest.approx((unlearned - original) / (retrained - original), abs=1e-6)
        assert share["low"] < share["value"] < share["high"]


def test_spread_of_the_retrainings(methods: dict[str, dict[str, float]]) -> None:
    assert set(methods["retrained_spread"]) == set(methods["retrained"]) == set(methods["original"])
    for figure in (*AUCS, "logloss_erased", "logit_gap_erased", "membership_attack_auc"):
        assert 0 < methods["retrained_spread"][figure] < methods["retrained"][figure]


def test_spread_is_that_of_models_retrained_one_by_one(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    planted_workspace(root, "true")
    erase(root, *(pair(rows) for rows in planted("true")[0].rows[:40]))
    alone = [against_retraining(root, references=1, reference_seed=seed)["methods"] for seed in (5, 6)]
    both = against_retraining(root, references=2, reference_seed=5)["methods"]
    for figure in (*AUCS, "logloss_erased", "membership_auc", "recovery_at_10"):
        values = [methods["retrained"][figure] for methods in alone]
        assert both["retrained"][figure] == pytest.approx(np.mean(values), abs=1e-9)
        assert both["retrained_spread"][figure] == pytest.approx(np.std(values, ddof=1), abs=1e-9)
        assert alone[0]["retrained_spread"][figure] is None


def test_what_references_and_shadows_are_trained_on(erased: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Interactions, int]] = []
    fit = references.fit

    def watched(spec: Any, sizes: Any, data: Interactions, validation: Any, options: Any, **more: Any) -> Any:
        trained.append((data, options.seed))
        return fit(spec, sizes, data, validation, options, **more)

    monkeypatch.setattr(references, "fit", watched)
    against_retraining(erased.workspace.root, references=2, shadows=4, attack_pairs=40, reference_seed=20)
    assert [seed for _, seed in trained] == [20, 21, 22, 23, 24, 25]
    kept = erased.train()
    labelled = [{(*row, label) for row, label in zip(d.rows.tolist(), d.labels, strict=True)} for d, _ in trained]
    left = {(*row, label) for row, label in zip(kept.rows.tolist(), kept.labels, strict=True)}
    assert labelled[0] == labelled[1] == left
    added = [data - left for data in labelled[2:]]
    assert all(data >= left for data in labelled[2:])
    assert [len(pairs) for pairs in added] == [40] * 4
    pool = set.union(*added)
    assert len(pool) == 80
    assert {sum(one in pairs for pairs in added) for one in pool} == {2}
    gone, test = erased.all_examples().take(erased.erased_ids()), erased.held_out("test")
    known = [{(*row, label) for row, label in zip(p.rows.tolist(), p.labels, strict=True)} for p in (gone, test)]
    assert [len(pool & part) for part in known] == [40, 40]


def test_forgotten_rows_are_not_asked_about(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    planted_workspace(root, "true")
    version = erase(root, whole_user(3), whole_item(8), *(pair(rows) for rows in planted("true")[0].rows[:20]))
    gone = version.all_examples().take(version.erased_ids())
    left = gone.take(~((gone.rows[:, 0] == 3) | (gone.rows[:, 1] == USERS + 8)))
    assert 0 < len(left) < len(gone)
    report = against_retraining(root, references=1, shadows=4)
    assert report["recovery_pairs"] == int(left.labels.sum())
    assert report["membership_attack"]["erased_pairs"] == len(left)


def test_a_pool_that_is_too_small_has_no_attack_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    planted_workspace(root, "true")
    erase(root, *(pair(rows) for rows in planted("true")[0].rows[:3]))
    report = against_retraining(root, references=1, shadows=4)
    for name in ("original", "unlearned", "retrained"):
        assert report["methods"][name]["membership_attack_auc"] is None
    assert report["membership_attack"]["shadows"] == 0
    printed = capsys.readouterr().out
    assert "no membership attack: it needs 10 erased pairs" in printed
    assert "there are 3 and 3" in printed
    assert "training shadow" not in printed


def test_the_printed_table(erased: Version, capsys: pytest.CaptureFixture[str], labels: str) -> None:
    against_retraining(erased.workspace.root, references=2, shadows=4, attack_pairs=20, erased_labels=labels)
    printed = capsys.readouterr().out
    (header,) = [line for line in printed.splitlines() if line.startswith("| model")]
    assert [name.strip() for name in header.strip("|").split("|")][1:] == [
        *AUCS,
        "recall_at_20",
        "ndcg_at_20",
        "logit_gap_erased",
        "logit_gap_test",
        "membership_auc",
        "logloss_erased",
        "recovery_at_10",
        "membership_attack_auc",
    ]
    for row in ("| original |", "| unlearned |", "| retrained |", "| retrained, spread |", "recovery: over "):
        assert row in printed
    assert "membership attack: 4 shadows, 20 erased pairs against 20 test pairs" in printed
    assert ("recovered share of auc_and: " in printed) == (labels == "wrong")


def test_a_plain_report_and_one_against_retraining_stand_side_by_side(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    planted_workspace(root, "true")
    erase(root, *(pair(rows) for rows in planted("true")[0].rows[:20]))
    compared = against_retraining(root, references=1)
    before = tree(root / "reports" / "evaluate-000003-against-retrain")
    evaluate(EvaluateConfig(workspace=root))
    assert tree(root / "reports" / "evaluate-000003-against-retrain") == before
    plain = json.loads((root / "reports" / "evaluate-000003" / "report.json").read_text())
    assert set(plain["methods"]) == {"original", "unlearned"}
    for name, figures in plain["methods"].items():
        assert set(figures) == {
            *AUCS,
            "recall_at_20",
            "ndcg_at_20",
            "recovery_at_10",
            "recovery_at_20",
            "recovery_at_50",
        }
        assert figures.items() <= compared["methods"][name].items()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shadows": 2, "against": "retrain"}, "--shadows = 2: .* give an even number of at least 4, or 0"),
        ({"shadows": 5, "against": "retrain"}, "--shadows = 5: .* give an even number of at least 4, or 0"),
        ({"shadows": -4, "against": "retrain"}, "--shadows = -4: "),
        ({"shadows": 4}, "--shadows = 4: .*add --against retrain"),
        ({"erased_labels": "wrong"}, "--erased-labels = wrong: .*add --against retrain"),
        ({"erased_labels": "flipped"}, "--erased-labels = 'flipped': "),
        ({"attack_pairs": 0}, "--attack-pairs = 0: "),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        evaluate(EvaluateConfig(workspace=tmp_path / "none", **changes))
