"""Calibration of a model that was stopped early: temperatures beside dampings, of the anchor that fits the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import ConfigError
from ifru_dist.influence.damping import adam_scale
from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.references import calibration_seed, train_reference
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import ROWS, copy, report_of, run
from tests.pipelines.calibrations import calibrated, config
from tests.pipelines.small import pair, small_interactions, small_workspace

ADAM = {"epochs": 10, "patience": 10, "batch_size": 64, "learning_rate": 0.03, "l2": 0.02}
GRID = (0.3, 1.0, 3.0)


def trained_by_adam(root: Path, model: str = "lightgcn") -> Version:
    """The small workspace with a model of its own training."""
    small_workspace(root, held_out=small_interactions())
    train(TrainConfig(workspace=root, model=model, dim=4, **ADAM))
    return open_version(Workspace(root))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose graph model adam has trained; to be copied."""
    root = tmp_path_factory.mktemp("trained") / "ws"
    trained_by_adam(root)
    return root


def curve_of(report: dict[str, Any]) -> dict[tuple[float, float], float]:
    """Gaps by temperature and damping."""
    return {(point["temperature"], point["damping"]): point["gap"] for point in report["curve"]}


def test_graph_models_are_calibrated_at_several_temperatures_and_unlearning_takes_what_was_found(
    trained: Path, tmp_path: Path
) -> None:
    root = copy(trained, tmp_path / "ws")
    before = open_version(Workspace(root))
    after, report = calibrated(root, dampings=GRID, refine=0)
    curve = curve_of(report)
    assert list(curve) == [(temperature, damping) for temperature in (1.0, 1.5, 2.0) for damping in GRID]
    assert len(set(curve.values())) == len(curve)
    best = {heat: min(gap for (other, _), gap in curve.items() if other == heat) for heat in (1.0, 1.5, 2.0)}
    near = best[1.0] <= 1.08 * min(best.values())
    assert (
        report["gap"] == curve[report["temperature"], report["damping"]] == (best[1.0] if near else min(best.values()))
    )
    scale = adam_scale(0.03, before.model.epochs, len(small_interactions()) / 64)
    assert (report["anchor"], report["anchor_scale"]) == ("gradient", pytest.approx(scale))
    record = after.model.calibration
    assert (record.damping, record.anchor, record.temperature) == tuple(
        report[key] for key in ("damping", "anchor", "temperature")
    )

    same = copy(root, tmp_path / "same")
    taken = run(root, pair(ROWS[0]), pair(ROWS[9]))
    solver = report_of(root, f"unlearn-{taken.manifest.version:06d}")["solver"]
    assert (solver["damping"], solver["damping_source"], solver["damping_note"]) == (record.damping, "calibrated", "")
    assert (solver["anchor"], solver["anchor_scale"]) == ("gradient", report["anchor_scale"])
    assert solver["temperature"] == record.temperature
    assert (solver["product"], solver["dense"]) == ("pruned", "frozen")
    assert solver["product_error"] > 0
    told = run(same, pair(ROWS[0]), pair(ROWS[9]), damping=record.damping, temperature=record.temperature)
    assert np.array_equal(told.embeddings(), taken.embeddings())
    assert not np.array_equal(taken.embeddings(), before.embeddings())


def test_each_gap_is_that_of_unlearning_the_sample_with_that_damping_and_temperature(
    trained: Path, tmp_path: Path
) -> None:
    before = open_version(Workspace(trained))
    _, report = calibrated(
        copy(trained, tmp_path / "ws"), dampings=(0.5, 2.0), temperatures=(3.0, 1.0, 3.0), refine=0, seed=4
    )
    assert list(curve_of(report)) == [(1.0, 0.5), (1.0, 2.0), (3.0, 0.5), (3.0, 2.0)]
    sample = draw_sample(before, share=0.1, most=20_000, seed=4, exclude=[])
    seed = calibration_seed(before.model.options["seed"], 4)
    retrained = train_reference(before, sample.kept, seed).parameters
    expected = Scorer(before.model.spec, sample.kept, retrained).scores(sample.sampled)
    pairs = [pair(rows) for rows in np.unique(sample.sampled.rows, axis=0)]
    for number, ((temperature, damping), gap) in enumerate(curve_of(report).items()):
        after = run(copy(trained, tmp_path / str(number)), *pairs, damping=damping, temperature=temperature)
        scores = Scorer(before.model.spec, sample.kept, after.parameters()).scores(sample.sampled)
        assert gap == pytest.approx(np.abs(scores - expected).mean(), rel=1e-6)


def test_the_best_of_every_temperature_is_refined(trained: Path, tmp_path: Path) -> None:
    _, report = calibrated(copy(trained, tmp_path / "ws"), dampings=(0.01, 1.0, 100.0), temperatures=(1.0, 2.0))
    for temperature in (1.0, 2.0):
        tried = [damping for heat, damping in curve_of(report) if heat == temperature]
        assert tried == sorted(tried)
        assert len(tried) > 3
    own = [gap for (heat, _), gap in curve_of(report).items() if heat == report["temperature"]]
    assert report["gap"] == min(own)


def test_a_calibration_of_another_anchor_is_not_taken(trained: Path, tmp_path: Path) -> None:
    root = copy(trained, tmp_path / "ws")
    _, report = calibrated(root, dampings=GRID, refine=0, anchor="degree")
    assert (report["anchor"], report["anchor_scale"]) == ("degree", 1.0)
    assert {temperature for temperature, _ in curve_of(report)} == {1.0}
    run(root, pair(ROWS[0]))
    solver = report_of(root, "unlearn-000005")["solver"]
    assert (solver["damping"], solver["damping_source"], solver["anchor"]) == (1.0, "default", "gradient")
    assert solver["temperature"] == 1.0
    assert "calibrated for --anchor degree" in solver["damping_note"]
    assert "calibrated for --anchor degree" in (root / "reports/unlearn-000005/summary.md").read_text()
    run(root, pair(ROWS[1]), anchor="degree")
    solver = report_of(root, "unlearn-000006")["solver"]
    assert (solver["damping"], solver["damping_source"], solver["anchor"]) == (
        report["damping"],
        "calibrated",
        "degree",
    )


def test_factorisations_keep_temperature_one_unless_others_are_asked_for(tmp_path: Path) -> None:
    trained_by_adam(tmp_path / "ws", model="mf")
    _, report = calibrated(copy(tmp_path / "ws", tmp_path / "auto"), dampings=GRID, refine=0)
    assert {temperature for temperature, _ in curve_of(report)} == {1.0}
    assert (report["anchor"], report["anchor_scale"]) == ("degree", 1.0)
    _, report = calibrated(
        copy(tmp_path / "ws", tmp_path / "asked"), dampings=GRID, refine=0, anchor="gradient", temperatures=(2.0,)
    )
    assert {temperature for temperature, _ in curve_of(report)} == {2.0}
    assert report["anchor"] == "gradient"


def test_the_gradient_anchor_needs_a_model_that_adam_trained(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    with pytest.raises(ConfigError, match="not trained by adam here"):
        calibrate(config(tmp_path / "ws", anchor="gradient"))
    assert open_version(Workspace(tmp_path / "ws")).manifest.version == 2


@pytest.mark.parametrize("temperatures", [(), (0.5,), (1.0, float("inf"))])
def test_temperatures_that_make_no_sense_are_refused(temperatures: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--temperatures"):
        calibrate(CalibrateConfig(workspace=tmp_path / "ws", temperatures=temperatures))
