"""Every shipped model, from training over unlearning to a comparison with retraining."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.influence.options import USABLE
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.workspace.version import Version
from tests.pipelines.batches import copy, report_of, run, timeless
from tests.pipelines.planted import erased_by_requests, requests_of, rows_of_erased, trained
from tests.pipelines.small import one_torch_thread, tree

pytestmark = pytest.mark.slow

MODELS: dict[str, dict[str, Any]] = {
    "mf": {"model": "mf"},
    "mf, squared": {"model": "mf", "loss": "squared"},
    "mf, bpr": {"model": "mf", "loss": "bpr", "negatives": 2},
    "biased-mf": {"model": "biased-mf"},
    "lightgcn, bpr": {"model": "lightgcn", "layers": 2, "loss": "bpr", "negatives": 2},
    "neumf": {"model": "neumf", "hidden": (6, 3)},
    "fm": {"model": "fm"},
}
CASES = [(name, "frozen") for name in MODELS] + [(name, "full") for name in ("biased-mf", "neumf", "fm")]
CASES += [("neumf", "sampled")]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    """A workspace with each model."""
    folder = tmp_path_factory.mktemp("models")
    return {name: trained(folder / f"ws{number}", **options) for number, (name, options) in enumerate(MODELS.items())}


def same_bits(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> bool:
    assert before.keys() == after.keys()
    return all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("name", "dense"), CASES, ids=["-".join(case) for case in CASES])
def test_a_model_forgets_and_is_compared_with_retraining(
    name: str, dense: str, models: dict[str, Version], tmp_path: Path
) -> None:
    before, root = models[name], copy(models[name].workspace.root, tmp_path / "ws")
    erased = erased_by_requests(before)
    after = run(root, *requests_of(before), row_budget=0, dense=dense)

    # The examples are gone, wherever they are kept.
    data, kept = before.train(), np.setdiff1d(np.arange(len(before.train())), erased)
    assert after.erased_ids().tolist() == erased.tolist()
    assert after.train().rows.tolist() == data.rows[kept].tolist()
    user = data.rows[0, 0]
    assert after.forgotten_rows().tolist() == [user]
    for part in ("valid", "test"):
        assert (before.held_out(part).rows[:, 0] == user).any()
        assert not (after.held_out(part).rows[:, 0] == user).any()

    # Only rows of erased examples moved, and the parameters beside them where they were to.
    moved = np.flatnonzero((after.embeddings() != before.embeddings()).any(axis=1))
    assert np.setdiff1d(moved, rows_of_erased(before, erased)).tolist() == []
    assert len(moved) > 5
    assert user in moved
    assert np.isfinite(after.embeddings()).all()
    assert same_bits(before.dense(), after.dense()) == (dense == "frozen")

    report = report_of(root, "unlearn-000003")
    assert (report["version_before"], report["version_after"]) == (2, 3)
    assert (report["interactions_erased"], report["rows_updated"]) == (len(erased), len(moved))
    assert report["solver"]["status"] in USABLE
    assert math.isfinite(report["influence_residual"])
    assert report["solver"]["objective_change"] < 0

    tables = tree(root)
    assert evaluate(EvaluateConfig(workspace=root, against="retrain", references=2)) == 0
    assert {path: tree(root)[path] for path in tables} == tables
    figures = report_of(root, "evaluate-000003-against-retrain")
    assert figures["noise_floor"] > 0
    assert figures["erased"] == len(erased)
    for method in ("original", "unlearned", "retrained"):
        for figure in ("auc", "auc_or", "logit_gap_erased", "logit_gap_test", "membership_auc"):
            assert math.isfinite(figures["methods"][method][figure]), (method, figure)
        # A score that was trained by another loss is no log-odds.
        assert (figures["methods"][method]["logloss_erased"] is None) == (before.model.spec.loss != "bce")
        ranking = figures["methods"][method]["recall_at_20"]
        assert ranking is None if name == "fm" else 0 <= ranking <= 1


@pytest.mark.usefixtures("on_local_ray")
@pytest.mark.parametrize(("name", "dense"), [("neumf", "full"), ("lightgcn, bpr", "frozen")])
def test_two_workers_make_the_bits_of_this_process(
    name: str, dense: str, models: dict[str, Version], tmp_path: Path
) -> None:
    versions = []
    for workers in (0, 2):
        root = copy(models[name].workspace.root, tmp_path / f"ws{workers}")
        versions.append(run(root, *requests_of(models[name]), workers=workers, dense=dense, row_budget=40))
    alone, together = versions
    assert timeless(alone.manifest) == timeless(together.manifest)  # with the digests of all files
    assert np.array_equal(alone.embeddings(), together.embeddings())
    assert same_bits(alone.dense(), together.dense())
    assert not np.array_equal(alone.embeddings(), models[name].embeddings())


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({"model": "mf", "loss": "bpr", "negatives": 2, "l2": 0.1}, {"curvature": "hessian"}),
        ({"model": "lightgcn", "layers": 2, "loss": "bpr", "negatives": 2, "l2": 0.02}, {}),
        # Without weight decay of the tower there is no stationary point; Gauss-Newton steps end early around this one.
        (
            {"model": "neumf", "hidden": (6, 3), "l2": 0.05, "l2_dense": 1.0},
            {"curvature": "hessian", "dense": "full"},
        ),
    ],
    ids=["mf, bpr", "lightgcn, bpr", "neumf"],
)
def test_near_a_stationary_point_almost_nothing_of_the_influence_stays(
    options: dict[str, Any], solver: dict[str, Any], tmp_path: Path
) -> None:
    before = trained(tmp_path / "ws", **options, optimiser="lbfgs", epochs=4000)
    assert report_of(tmp_path / "ws", "train-000002")["converged"]
    assert np.abs(before.embeddings()).max() > 0.5  # the regulariser has not made everything zero
    everything = {"row_budget": "all", "newton_steps": "auto", "tolerance": 0.01, "damping": 0.0}
    run(tmp_path / "ws", *requests_of(before), **everything, **solver)
    report = report_of(tmp_path / "ws", "unlearn-000003")
    assert report["solver"]["stationarity"] < 0.001
    assert report["influence_residual"] < 0.05
