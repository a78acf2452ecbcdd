"""Calibration of a model that was trained to rank: judged by where the sample's items stand, not by their scores."""

from pathlib import Path

import numpy as np
import pytest

from ifru_dist.errors import SolveError
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.calibrate import calibrate
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.references import calibration_seed, train_reference
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import copy, report_of, run
from tests.pipelines.calibrations import calibrated, config
from tests.pipelines.small import pair, small_interactions, small_workspace

ADAM = {"epochs": 12, "patience": 12, "batch_size": 64, "learning_rate": 0.05}
GRID = (0.3, 1.0, 3.0)


def trained(root: Path, model: str, loss: str = "bpr") -> Version:
    """The small workspace with a model that was trained in pairs of a positive and a negative."""
    small_workspace(root, held_out=small_interactions())
    train(TrainConfig(workspace=root, model=model, loss=loss, dim=4, **ADAM))
    return open_version(Workspace(root))


def mean_log_rank(scorer: Scorer, pairs: Interactions, items: range) -> float:
    """Counted item by item."""
    item_scores = scorer.item_scores(items)
    assert item_scores is not None
    ranks = []
    for user, item in pairs.pairs:
        scores = item_scores(np.array([user]))[0]
        own, others = scores[item - items.start], np.delete(scores, item - items.start)
        ranks.append((others > own).sum() + (others == own).sum() / 2)
    return float(np.log1p(ranks).mean())


@pytest.mark.parametrize("model", ["mf", "lightgcn", "biased-mf"])
def test_the_best_damping_brings_the_samples_items_where_retraining_has_them(tmp_path: Path, model: str) -> None:
    before = trained(tmp_path / "ws", model)
    version, report = calibrated(tmp_path / "ws", dampings=GRID, temperatures=(1.0,), refine=2)
    straight = [point for point in report["curve"] if point["relative_gap"] < 1]
    shifts = {point["damping"]: point["rank_shift"] for point in straight}
    assert report["rank_shift"] == shifts[report["damping"]] == min(shifts.values(), key=abs)
    assert abs(report["rank_shift"]) < abs(report["rank_shift_do_nothing"])
    assert version.model.calibration is not None
    assert version.model.calibration.damping == report["damping"]

    sample = draw_sample(before, 0.1, 20_000, 0, [])
    retrained = train_reference(before, sample.kept, calibration_seed(before.model.options["seed"], 0)).parameters
    requests = [pair(rows) for rows in np.unique(sample.sampled.pairs, axis=0)]
    after = run(copy(tmp_path / "ws", tmp_path / "erased"), *requests)
    items, spec = before.layout.items, before.model.spec
    ranks = {
        name: mean_log_rank(Scorer(spec, data, parameters), sample.sampled, items)
        for name, data, parameters in (
            ("original", before.train(), before.parameters()),
            ("retrained", sample.kept, retrained),
            ("unlearned", sample.kept, after.parameters()),
        )
    }
    assert report["rank_shift"] == pytest.approx(ranks["unlearned"] - ranks["retrained"], abs=1e-6)
    assert report["rank_shift_do_nothing"] == pytest.approx(ranks["original"] - ranks["retrained"], abs=1e-6)


def test_a_damping_that_leads_astray_is_not_kept_though_its_ranks_are_those_of_retraining(tmp_path: Path) -> None:
    trained(tmp_path / "ws", "mf")
    assert calibrate(config(tmp_path / "ws", dampings=(0.01,), refine=0)) == SolveError.exit_code
    report = report_of(tmp_path / "ws", "calibrate-000003")
    assert abs(report["rank_shift"]) < abs(report["rank_shift_do_nothing"])
    assert report["gap"] > report["gap_do_nothing"]
    assert not report["usable"]
    assert "closer to retraining than doing nothing" in report["notes"][-1]


def test_other_models_are_not_judged_by_ranks(tmp_path: Path) -> None:
    trained(tmp_path / "ws", "mf", loss="bce")
    _, report = calibrated(tmp_path / "ws", dampings=GRID, refine=0)
    assert report["rank_shift"] is report["rank_shift_do_nothing"] is None
    assert {point["rank_shift"] for point in report["curve"]} == {None}
