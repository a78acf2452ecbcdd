"""Calibration: its curve is what unlearning and retraining give, and the damping it finds is what unlearning uses."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.evaluation.forgetting import logloss
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.update import Outcome
from ifru_dist.pipelines import calibrate as pipeline
from ifru_dist.pipelines import erasing, references, scoring
from ifru_dist.pipelines.calibrate import calibrate
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.references import calibration_seed, train_reference
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.sharding.solo import SoloWorker, solo_worker
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.influence import reference
from tests.pipelines.batches import MODELS, ROWS, copy, report_of, run
from tests.pipelines.calibrations import GRID, STATIONARY, UNFINISHED, calibrated, config, gaps, trained_workspace
from tests.pipelines.generated import generated_workspace
from tests.pipelines.small import SIZES, pair, request_file, small_interactions, small_workspace, tree
from tests.sharding.gangs import plans
from tests.workspaces import item_id, user_id

L2 = 1.0
"""Strong enough that Newton steps go to one minimum, wherever they start."""
EXACT = {"tolerance": 1e-9, "solver_tolerance": 1e-6, "max_newton_steps": 200, "row_budget": 0}


# ----------------------------------------------------------------------------------------------------------- the curve


def dense_scores(case: reference.Case, present: torch.Tensor, embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Scores of pairs by the dense reference, on the graph of the present examples."""
    outputs = (reference.propagation(case, present) @ torch.from_numpy(embeddings).double()).numpy()
    return (outputs[pairs[:, 0]] * outputs[pairs[:, 1]]).sum(axis=1)


@MODELS
def test_the_curve_is_what_unlearning_the_sample_and_retraining_without_it_give(tmp_path: Path, model: str) -> None:
    before = trained_workspace(tmp_path / "ws", name=model)
    sample = draw_sample(before, share=0.1, most=20_000, seed=4, exclude=[])
    pairs = sample.sampled.rows
    _, report = calibrated(copy(tmp_path / "ws", tmp_path / "calibrated"), seed=4, **EXACT)

    data = small_interactions()
    erased = torch.zeros(len(data), dtype=torch.bool)
    erased[torch.from_numpy(sample.examples)] = True
    case = reference.Case(
        sizes=SIZES,
        pairs=torch.from_numpy(data.rows),
        label=torch.from_numpy(data.labels).double(),
        erased=erased,
        embeddings=torch.from_numpy(before.embeddings()).double(),
        layer_weights=(1.0,) if model == "mf" else (0.5, 0.5),
        l2=before.model.spec.l2,
        partitions=7,
    )
    options = TrainOptions(**{**before.model.options, "seed": calibration_seed(1, 4)})
    valid = before.held_out("valid")
    kept = data.take(np.delete(np.arange(len(data)), sample.examples))
    fitted = fit(before.model.spec, SIZES, kept, auc_validation(valid), options, show_progress=False)
    retrained = dense_scores(case, ~erased, fitted.parameters.embeddings, pairs)

    original = dense_scores(case, torch.ones_like(erased), before.embeddings(), pairs)
    assert report["gap_do_nothing"] == pytest.approx(np.abs(original - retrained).mean(), rel=1e-5)
    assert report["gap_do_nothing"] > 0.5  # there is something to unlearn
    for point in report["curve"]:
        root = copy(tmp_path / "ws", tmp_path / str(point["damping"]))
        after = run(root, *map(pair, np.unique(pairs, axis=0)), damping=point["damping"], **EXACT)
        assert after.erased_ids().tolist() == sample.examples.tolist()
        unlearned = dense_scores(case, ~erased, after.embeddings(), pairs)
        assert point["gap"] == pytest.approx(np.abs(unlearned - retrained).mean(), rel=1e-5)
        assert point["relative_gap"] == pytest.approx(point["gap"] / report["gap_do_nothing"])
        solved = report_of(root, "unlearn-000003")
        assert point["influence_residual"] == pytest.approx(solved["influence_residual"], rel=1e-3)
        assert point["status"] == solved["solver"]["status"] == "converged"
    assert len(set(gaps(report).values())) == len(report["curve"])  # they differ, so the choice means something
    assert report["gap"] == min(gaps(report).values())
    assert gaps(report)[report["damping"]] == report["gap"]
    assert report["gap"] < 0.5 * report["gap_do_nothing"]
    assert report["usable"] is True


@pytest.mark.parametrize(
    ("model", "options", "grid", "further"),
    [
        ("lightgcn", UNFINISHED, (0.2, 0.4), [0.1, 0.05, 0.025]),  # the best of all lies below the grid,
        ("mf", UNFINISHED, (0.02, 0.04), [0.08, 0.16, 0.32]),  # above it,
        ("mf", STATIONARY, (0.4, 0.8), [0.2, 0.1, 0.05, 0.025]),  # further below than four values reach,
        ("mf", UNFINISHED, (0.02, 0.2, 0.8), []),  # and inside it
    ],
    ids=["downwards", "upwards", "four times", "never"],
)
def test_a_grid_that_ends_too_early_is_extended_until_its_best_lies_inside(
    tmp_path: Path, model: str, options: TrainOptions, grid: tuple[float, ...], further: list[float]
) -> None:
    trained_workspace(tmp_path / "ws", name=model, l2=0.02 if options == UNFINISHED else 0.1, options=options)
    _, report = calibrated(copy(tmp_path / "ws", tmp_path / "extended"), dampings=grid, refine=1)
    found = sorted(gaps(report).items())
    gap = {c: next(gap for damping, gap in found if damping == pytest.approx(c)) for c in (*grid, *further)}
    tried = sorted(gap)
    at = tried.index(min(tried, key=gap.__getitem__))
    between = [(low * high) ** 0.5 for low, high in itertools.pairwise(tried[max(0, at - 1) : at + 2])]
    curve = [entry for entry in found if any(entry[0] == pytest.approx(c) for c in [*tried, *between])]
    assert [damping for damping, _ in found] == pytest.approx(sorted([*tried, *between, *lowest_point(curve)]))
    for count, _ in enumerate(further):  # each follows as an end was the best of those before
        before = sorted([*grid, *further[:count]])
        assert min(before, key=gap.__getitem__) == (before[0] if further[0] < grid[0] else before[-1])
    inside = 0 < at < len(tried) - 1
    assert inside == (len(further) < 4)
    assert bool(report["notes"]) == (not inside)
    assert not further or report["gap"] < min(gap[damping] for damping in grid)

    _, report = calibrated(copy(tmp_path / "ws", tmp_path / "as given"), dampings=grid, refine=0)
    assert list(gaps(report)) == list(grid)
    assert report["gap"] == min(gap[damping] for damping in grid)


def lowest_point(curve: list[tuple[float, float]]) -> list[float]:
    """Where a parabola through the lowest of some points (damping, gap) and its neighbours is lowest; none if known."""
    at = min(range(len(curve)), key=lambda place: (curve[place][1], -place))
    if not 0 < at < len(curve) - 1:
        return []
    logs, gaps = np.log([c for c, _ in curve[at - 1 : at + 2]]), [gap for _, gap in curve[at - 1 : at + 2]]
    square, linear, _ = np.polyfit(logs, gaps, 2)
    lowest = -linear / (2 * square)
    return [] if np.abs(logs - lowest).min() <= 0.01 else [float(np.exp(lowest))]


SAME = ("rounds", "status", "stationarity", "relative_residual", "objective_change", "influence_residual")
"""The figures of an outcome that do not depend on the clock or on what was solved before."""


def assert_same(one: Outcome, other: Outcome) -> None:
    """Two outcomes agree bit for bit."""
    assert one.values.dtype == other.values.dtype == torch.float32
    for name in ("rows", "values", "emptied"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert {name: getattr(one, name) for name in SAME} == {name: getattr(other, name) for name in SAME}


@MODELS
@pytest.mark.parametrize(
    ("limit", "status"),
    [
        ({}, "converged"),
        (EXACT, "converged"),
        ({"newton_steps": 2}, "converged"),
        ({"max_newton_steps": 1, "tolerance": 1e-9}, "max_newton_steps"),
    ],
    ids=["default", "exact", "fixed", "cut off"],
)
def test_one_prepared_batch_solves_each_damping_bit_for_bit_as_a_batch_of_its_own(
    tmp_path: Path, model: str, limit: dict[str, Any], status: str
) -> None:
    (plan,) = plans(small_workspace(tmp_path / "ws", name=model, l2=L2), 1)
    examples, options, dampings = np.arange(0, 300, 9), SolveOptions(damping=1.0, **limit), [1.6, 0.8, 0.4, 1.6]
    with solo_worker(plan) as worker:
        worker.call("prepare", examples, options)
        together = [worker.call("solve_prepared", damping)[0] for damping in dampings]
        alone = [worker.call("solve", examples, dataclasses.replace(options, damping=c))[0] for c in dampings]
        with pytest.raises(RuntimeError, match="before prepare"):
            worker.call("solve_prepared", 0.4)
    for one, other in zip(together, alone, strict=True):
        assert one.status == status
        assert_same(one, other)
    assert not torch.equal(together[0].values, together[1].values)


def recorded(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, entry: Callable[..., Any]) -> list[Any]:
    """What ``entry`` makes of the arguments of each call of a module's function, which is called all the same."""
    original, seen = getattr(module, name), list[Any]()

    def recording(*arguments: Any) -> Any:
        seen.append(entry(*arguments))
        return original(*arguments)

    monkeypatch.setattr(module, name, recording)
    return seen


@MODELS
def test_with_default_options_each_damping_is_solved_bit_for_bit_as_unlearning_solves_it(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = small_workspace(tmp_path / "ws", name=model, l2=L2)
    calibrating = recorded(monkeypatch, pipeline, "merged_update", lambda version, outcomes, forgotten: outcomes)
    unlearning = recorded(monkeypatch, erasing, "merged_update", lambda version, outcomes, forgotten: outcomes)
    calibrate(config(copy(tmp_path / "ws", tmp_path / "calibrated"), dampings=GRID, refine=0, seed=4))
    pairs = np.unique(draw_sample(before, share=0.1, most=20_000, seed=4, exclude=[]).sampled.rows, axis=0)
    for damping in GRID:
        run(copy(tmp_path / "ws", tmp_path / str(damping)), *map(pair, pairs), damping=damping)
    for ours, theirs in zip(calibrating, unlearning, strict=True):
        assert_same(ours[0], theirs[0])
    for (one,), (other,) in itertools.combinations(calibrating, 2):
        assert not torch.equal(one.values, other.values)


def test_the_batch_is_prepared_once_and_updates_are_merged_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_workspace(tmp_path / "ws")
    events: list[str] = []
    recorded(monkeypatch, SoloWorker, "call", lambda self, method, *arguments: events.append(method))
    recorded(monkeypatch, pipeline, "merged_update", lambda *arguments: events.append("merge"))
    calibrated(tmp_path / "ws", refine=0)
    assert events == ["prepare", *["solve_prepared", "merge"] * len(GRID)]


def test_the_graph_of_the_kept_examples_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trained_workspace(tmp_path / "ws", name="lightgcn")
    built = recorded(monkeypatch, scoring, "Propagation", lambda edges, *arguments: len(edges))
    calibrated(tmp_path / "ws", seed=4)
    kept = draw_sample(before, share=0.1, most=20_000, seed=4, exclude=[]).kept
    assert sorted(built) == [len(kept.positives()), len(before.train().positives())]


def test_the_model_that_judges_the_dampings_is_none_of_those_that_evaluation_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_workspace(tmp_path / "ws")
    calibrating = recorded(monkeypatch, pipeline, "train_reference", lambda version, data, seed: seed)
    evaluating = recorded(monkeypatch, references, "train_reference", lambda version, data, seed: seed)
    calibrated(tmp_path / "ws", refine=0)
    run(tmp_path / "ws", pair(ROWS[0]))
    evaluate(EvaluateConfig(workspace=tmp_path / "ws", against="retrain", references=3, shadows=4))
    assert calibrating == [calibration_seed(1, 0)]
    assert evaluating[:3] == [2, 3, 4]
    assert not set(calibrating) & set(evaluating)
    assert len({calibration_seed(own, seed) for own in range(30) for seed in range(30)}) == 900


# ------------------------------------------------------------------------------------------------------- the workspace


@MODELS
def test_only_the_models_calibration_changes_and_unlearning_uses_it(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    before = trained_workspace(root, name=model)
    files = tree(root)
    after, report = calibrated(root, newton_steps=1, seed=3)
    assert (after.manifest.version, after.manifest.kind, after.manifest.parent) == (
        3,
        "calibrate",
        Workspace(root).digest(2),
    )
    assert files.items() <= tree(root).items()
    assert after.manifest.files() == before.manifest.files()
    record = after.model.calibration
    assert dataclasses.replace(after.model, calibration=None) == before.model
    assert (record.damping, record.gap, record.gap_do_nothing) == tuple(
        report[key] for key in ("damping", "gap", "gap_do_nothing")
    )
    assert (record.version, record.seed, record.interactions) == (2, 3, report["sample"]["interactions"])
    assert (record.solver["newton_steps"], record.solver["curvature"]) == (1, "gauss-newton")
    assert (record.anchor, record.temperature) == (report["anchor"], report["temperature"]) == ("degree", 1.0)
    told = f"damping {report['damping']:.4g} (anchor degree, temperature 1) comes closest to retraining"
    assert told in capsys.readouterr().out

    run(root, pair(ROWS[0]), newton_steps=1)
    solver = report_of(root, "unlearn-000004")["solver"]
    assert (solver["damping"], solver["damping_source"], solver["damping_note"]) == (record.damping, "calibrated", "")
    run(root, pair(ROWS[1]), damping=0.7)
    run(root, pair(ROWS[2]), tolerance=0.05)
    solver = report_of(root, "unlearn-000006")["solver"]
    assert (solver["damping"], solver["damping_source"]) == (record.damping, "calibrated")
    assert "other solver options (tolerance, newton_steps)" in solver["damping_note"]
    assert open_version(Workspace(root)).model.calibration == record

    train(TrainConfig(workspace=root, dim=4, epochs=1))
    assert open_version(Workspace(root)).model.calibration is None
    run(root, pair(ROWS[3]))
    solver = report_of(root, "unlearn-000008")["solver"]
    assert (solver["damping"], solver["damping_source"]) == (0.4, "default")


def test_the_same_seed_gives_the_same_calibration(tmp_path: Path) -> None:
    trained_workspace(tmp_path / "ws")
    first, again, other = (
        calibrated(copy(tmp_path / "ws", tmp_path / name), seed=seed)[0].model.calibration
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.gap_do_nothing != other.gap_do_nothing


def test_a_dry_run_reports_and_commits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ws"
    trained_workspace(root)
    before = tree(root)
    with Workspace(root).lock("train"):  # it does not wait for another job
        assert calibrate(config(root, dry_run=True)) == 0
    changed = {name for name, content in tree(root).items() if before.get(name, "new") != content}
    assert changed - {"lock"} == {
        *("reports", "reports/calibrate-000002-dry-run"),
        *(f"reports/calibrate-000002-dry-run/{name}" for name in ("report.json", "summary.md")),
    }
    report = report_of(root, "calibrate-000002-dry-run")
    assert (report["version_before"], report["version_after"]) == (2, 2)
    assert report["damping"] == min(report["curve"], key=lambda entry: entry["gap"])["damping"]
    assert "a dry run changes nothing" in capsys.readouterr().out


def test_the_report_has_every_key_that_is_documented(tmp_path: Path) -> None:
    trained_workspace(tmp_path / "ws")
    _, report = calibrated(tmp_path / "ws", refine=0, output=tmp_path / "ws/reports/calibrate-000003")
    documented = (
        (Path(__file__).parents[2] / "docs" / "reports.md").read_text().split("## calibrate")[1].split("\n## ")[0]
    )
    for key in set(report) - {"job", "version_before", "version_after", "workers", "config", "failed_attempts"}:
        assert f"`{key}`" in documented
    for key in report["curve"][0]:
        assert f"`{key}`" in documented
    assert report["seconds"]["total"] >= report["seconds"]["solve"] + report["seconds"]["retrain"] > 0
    assert [entry["damping"] for entry in report["curve"]] == list(GRID)
    assert json.loads((tmp_path / "ws/reports/calibrate-000003/report.json").read_text())["config"]["refine"] == 0


# --------------------------------------------------------------------------------------------------------------- a gang


@pytest.mark.slow
@MODELS
@pytest.mark.usefixtures("on_local_ray")
def test_any_number_of_workers_finds_the_same_bit_for_bit(tmp_path: Path, model: str) -> None:
    trained_workspace(tmp_path / "ws", name=model, l2=0.02, options=UNFINISHED)
    grid = (0.01, 0.05, 0.4)  # the best lies inside, so that what is added to the grid is its refinement
    found = [
        calibrated(copy(tmp_path / "ws", tmp_path / str(workers)), dampings=grid, workers=workers, row_budget=55)
        for workers in (0, 1, 2)
    ]
    assert len(found[0][1]["curve"]) > len(grid) + 2
    for version, report in found[1:]:
        assert version.model == found[0][0].model
        for key in ("curve", "damping", "gap", "gap_do_nothing", "logloss_sample", "sample", "notes"):
            assert report[key] == found[0][1][key]


# ------------------------------------------------------------------------------------------------- what it is good for


@pytest.mark.slow
def test_a_deletion_of_true_labels_is_not_optimised_into_forgetting_nothing(tmp_path: Path) -> None:
    """Validation AUC is best where least is forgotten; calibration, on other pairs, finds what is near retraining."""
    root = tmp_path / "ws"
    before = generated_workspace(root)
    train = before.train()
    goes = np.zeros(len(train), dtype=bool)
    goes[np.random.default_rng(1).choice(len(train), len(train) // 8, replace=False)] = True
    erased, kept, valid = train.take(goes), train.take(~goes), before.held_out("valid")
    requests = [
        {"user": str(user_id(int(user))), "item": item_id(int(item) - before.layout.offsets[1])}
        for user, item in erased.rows
    ]
    _, report = calibrated(
        root, dampings=(0.1, 0.4, 1.6, 6.4), share=0.03, exclude=request_file(tmp_path / "e.parquet", *requests)
    )
    assert report["sample"]["excluded"] == len(erased)
    assert 0.1 <= report["damping"] < 0.8
    assert report["gap"] < 0.65 * report["gap_do_nothing"]

    scorers = {"original": Scorer(before.model.spec, train, before.parameters())}
    for name, changes in {"calibrated": {}, "largest": {"damping": 6.4}}.items():
        after = run(copy(root, tmp_path / name), *requests, **changes)
        scorers[name] = Scorer(after.model.spec, kept, after.parameters())
    assert report_of(tmp_path / "calibrated", "unlearn-000004")["solver"]["damping"] == report["damping"]
    scorers["retrained"] = Scorer(before.model.spec, kept, train_reference(before, kept, seed=5).parameters)
    scores = {name: scorer.scores(erased) for name, scorer in scorers.items()}
    gap = {name: np.abs(scores[name] - scores["retrained"]).mean() for name in scores}
    auc = {name: scorer.auc(valid) for name, scorer in scorers.items()}
    loss = {name: logloss(scores[name], erased.labels) for name in scores}

    assert auc["calibrated"] < min(auc["largest"], auc["original"])  # so would AUC have chosen
    assert gap["largest"] > 0.9 * gap["original"]
    assert gap["calibrated"] < 0.65 * gap["original"]
    assert (
        loss["original"] + 0.5 * (loss["retrained"] - loss["original"]) < loss["calibrated"] < loss["retrained"] + 0.1
    )
    assert loss["largest"] < loss["original"] + 0.15 * (loss["retrained"] - loss["original"])
