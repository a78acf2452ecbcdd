"""Calibration: its curve is what unlearning and retraining give, and the damping it finds is what unlearning uses."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import ConfigError, GangError, IfruError, InputError, SolveError, WorkspaceError
from ifru_dist.evaluation.forgetting import logloss
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.update import Outcome
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines import calibrate as pipeline
from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.pipelines.calibration_curve import CurvePoint, best_point, curve_notes, dampings_between
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.references import train_reference
from ifru_dist.pipelines.requests import Request
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.sharding.solo import solo_worker
from ifru_dist.sharding.worker import Worker
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.influence import reference
from tests.pipelines.batches import MODELS, ROWS, copy, report_of, run
from tests.pipelines.generated import generated_workspace
from tests.pipelines.small import (
    BUSY,
    SIZES,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.sharding.gangs import plans
from tests.workspaces import item_id, user_id

GRID = (0.2, 0.4, 0.8)
L2 = 1.0
"""Strong enough that Newton steps go to one minimum, wherever they start."""
EXACT = {"tolerance": 1e-9, "solver_tolerance": 1e-6, "max_newton_steps": 200, "row_budget": 0}


def config(root: Path, **changes: Any) -> CalibrateConfig:
    return CalibrateConfig(**{"workspace": root, "workers": 0, "share": 0.1, "dampings": GRID, "refine": 1} | changes)


def calibrated(root: Path, **changes: Any) -> tuple[Version, dict[str, Any]]:
    """The version after calibration, and its report."""
    assert calibrate(config(root, **changes)) == 0
    version = open_version(Workspace(root), check_content=True)
    return version, report_of(root, f"calibrate-{version.manifest.version:06d}")


def gaps(report: dict[str, Any]) -> dict[float, float]:
    return {point["damping"]: point["gap"] for point in report["curve"]}


# ----------------------------------------------------------------------------------------------------------- the curve


def dense_scores(case: reference.Case, present: torch.Tensor, embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Scores of pairs by the dense reference, on the graph of the present examples."""
    outputs = (reference.propagation(case, present) @ torch.from_numpy(embeddings).double()).numpy()
    return (outputs[pairs[:, 0]] * outputs[pairs[:, 1]]).sum(axis=1)


@MODELS
def test_the_curve_is_what_unlearning_the_sample_and_retraining_without_it_give(tmp_path: Path, model: str) -> None:
    before = small_workspace(tmp_path / "ws", name=model, l2=L2)
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
        l2=L2,
        partitions=7,
    )
    options = TrainOptions(**{**before.model.options, "seed": 1 + 1 + 4})
    valid = before.held_out("valid")
    kept = data.take(np.delete(np.arange(len(data)), sample.examples))
    fitted = fit(before.model.spec, sum(SIZES), kept, valid, options, show_progress=False)
    retrained = dense_scores(case, ~erased, fitted.embeddings, pairs)

    original = dense_scores(case, torch.ones_like(erased), before.embeddings(), pairs)
    assert report["gap_do_nothing"] == pytest.approx(np.abs(original - retrained).mean(), rel=1e-5)
    at_end = min(GRID, key=gaps(report).__getitem__) in (GRID[0], GRID[-1])
    assert len(report["curve"]) == len(GRID) + (1 if at_end else 2)
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


def solver(**changes: Any) -> SolveOptions:
    return SolveOptions(**{"damping": 1.0, **EXACT} | changes)


def together_and_alone(version: Version, options: SolveOptions) -> Iterator[tuple[Outcome, Outcome]]:
    """A batch solved with several dampings on one prepared batch, and each on its own, on all the same rows."""
    examples, dampings = np.arange(0, 300, 9), [1.6, 0.8, 0.4]
    (plan,) = plans(version, 1)
    with solo_worker(plan) as worker:
        (together,) = worker.call("calibrate", examples, options, dampings)
        alone = [worker.call("solve", examples, dataclasses.replace(options, damping=c))[0] for c in dampings]
    assert len(together) == 3
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.emptied, other.emptied)
        assert one.status == other.status
        yield one, other


@MODELS
@pytest.mark.parametrize("limit", [{"newton_steps": 2}, {"max_newton_steps": 2}], ids=["fixed", "cut off"])
def test_one_prepared_batch_solves_each_damping_bit_for_bit_as_a_batch_of_its_own(
    tmp_path: Path, model: str, limit: dict[str, int]
) -> None:
    for one, other in together_and_alone(small_workspace(tmp_path / "ws", name=model, l2=L2), solver(**limit)):
        assert one.status == ("converged" if "newton_steps" in limit else "max_newton_steps")
        assert torch.equal(one.values, other.values)
        assert (one.iterations, one.influence_residual) == (other.iterations, other.influence_residual)


@MODELS
def test_on_the_way_to_the_tolerance_a_near_start_saves_steps_and_ends_in_the_same_place(
    tmp_path: Path, model: str
) -> None:
    pairs = list(together_and_alone(small_workspace(tmp_path / "ws", name=model, l2=L2), solver()))
    for one, other in pairs:
        assert one.status == "converged"
        torch.testing.assert_close(one.values, other.values, rtol=1e-6, atol=1e-6)
    for one, other in pairs[1:]:
        assert sum(one.iterations) < sum(other.iterations)


def point(damping: float, gap: float | None, do_nothing: float = 2.0) -> CurvePoint:
    relative = None if gap is None else gap / do_nothing
    return CurvePoint(
        damping=damping,
        gap=gap,
        relative_gap=relative,
        status="converged" if gap is not None else "not_finite",
        iterations=[1],
        influence_residual=0.5,
        logloss_sample=gap,
    )


def test_the_best_damping_is_refined_between_its_usable_neighbours() -> None:
    curve = [point(0.1, None), point(0.2, 1.5), point(0.4, 1.0), point(1.6, 1.0), point(3.2, 1.9)]
    assert best_point(curve).damping == 1.6  # of equal ones that which moves rows least
    assert sorted(dampings_between(curve, 1)) == pytest.approx([0.8, 3.2 / 2**0.5])
    assert sorted(dampings_between(curve[:3], 3)) == pytest.approx([0.2 * 2 ** (k / 4) for k in (1, 2, 3)])
    assert dampings_between(curve, 0) == dampings_between(curve[1:2], 3) == set()
    assert curve_notes(curve, curve[3]) == []


@pytest.mark.parametrize(("best", "end"), [(0, "smallest"), (2, "largest")])
def test_a_best_damping_at_an_end_of_the_grid_is_told_with_the_remedy(best: int, end: str) -> None:
    curve = [point(damping, 1.0 + (position != best)) for position, damping in enumerate((0.1, 0.2, 0.4))]
    assert curve_notes(curve, best_point(curve)) == [
        f"the best damping is the {end} one that was tried: give --dampings further out"
    ]
    useless = [dataclasses.replace(entry, relative_gap=1.01) for entry in curve]
    assert "closer to retraining than doing nothing" in curve_notes(useless, useless[1])[0]


# ---------------------------------------------------------------------------------------------------------- the sample


def everywhere(pairs: Interactions, rows: np.ndarray) -> np.ndarray:
    """Mask of the interactions whose pair is among rows (m, 2)."""
    return (pairs.rows[:, None] == rows[None]).all(axis=2).any(axis=1)


def test_the_sample_is_whole_pairs_and_follows_the_seed(tmp_path: Path) -> None:
    version, data = small_workspace(tmp_path / "ws"), small_interactions()
    distinct = len(np.unique(data.rows, axis=0))
    samples = [draw_sample(version, share=0.5, most=20_000, seed=seed, exclude=[]) for seed in (1, 1, 2)]
    assert samples[0].examples.tolist() == samples[1].examples.tolist() != samples[2].examples.tolist()
    for sample in samples:
        assert len(np.unique(sample.sampled.rows, axis=0)) == round(0.5 * distinct)
        assert len(sample.sampled) > round(0.5 * distinct)  # some pairs stand twice
        assert np.flatnonzero(everywhere(data, sample.sampled.rows)).tolist() == sample.examples.tolist()
        assert sample.sampled.labels.tolist() == data.labels[sample.examples].tolist()
        assert sample.kept.rows.tolist() == np.delete(data.rows, sample.examples, axis=0).tolist()
    assert len(np.unique(draw_sample(version, 0.5, 7, 1, []).sampled.rows, axis=0)) == 7
    assert len(np.unique(draw_sample(version, 1e-9, 7, 1, []).sampled.rows, axis=0)) == 1


def test_what_was_erased_and_what_requests_name_stays_out_of_the_sample(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    version = run(tmp_path / "ws", pair(ROWS[0]), pair(ROWS[1]))
    item = int(ROWS[7, 1])
    exclude = [
        Request(None, "user", str(user_id(BUSY)), None),
        Request(None, "item", None, item_id(item - SIZES[0])),
        Request(None, "interaction", str(user_id(int(ROWS[50, 0]))), item_id(int(ROWS[50, 1]) - SIZES[0])),
        Request(None, "interaction", "nobody", item_id(0)),
        Request(None, "user", "nobody", None),
    ]
    left = version.train()
    named = (left.rows[:, 0] == BUSY) | (left.rows[:, 1] == item) | everywhere(left, ROWS[[50]])
    sample = draw_sample(version, share=0.999, most=20_000, seed=1, exclude=exclude)
    assert sample.excluded == named.sum() > 10
    assert sample.sampled.rows.tolist() == left.rows[~named].tolist()  # all that may be drawn
    assert sample.kept.rows.tolist() == left.rows[named].tolist()
    assert version.all_examples().take(sample.examples).rows.tolist() == sample.sampled.rows.tolist()


def test_requests_to_exclude_are_read_from_the_file(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    requests = request_file(tmp_path / "requests.parquet", whole_user(BUSY), pair(ROWS[50]))
    _, report = calibrated(tmp_path / "ws", exclude=requests)
    data = small_interactions()
    assert report["sample"]["excluded"] == ((data.rows[:, 0] == BUSY) | everywhere(data, ROWS[[50]])).sum()


# ------------------------------------------------------------------------------------------------------- the workspace


@MODELS
def test_only_the_models_calibration_changes_and_unlearning_uses_it(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root, name=model)
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
    assert f"damping {report['damping']:.4g} comes closest to retraining" in capsys.readouterr().out

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
    small_workspace(tmp_path / "ws")
    first, again, other = (
        calibrated(copy(tmp_path / "ws", tmp_path / name), seed=seed)[0].model.calibration
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.gap_do_nothing != other.gap_do_nothing


def test_a_dry_run_reports_and_commits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
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
    small_workspace(tmp_path / "ws")
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


# ----------------------------------------------------------------------------------------------------- what goes wrong


def refused(root: Path, error: type[IfruError], *expected: str, **changes: Any) -> None:
    """Calibration fails with a message of one line, and leaves every byte of the workspace as it was."""
    before = tree(root.parent)
    with pytest.raises(error) as caught:
        calibrate(config(root, **changes))
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root.parent) == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dampings": ()}, "--dampings = (): "),
        ({"dampings": (0.4, 0.0)}, "--dampings = 0.0: "),
        ({"share": 1.0}, "--share = 1.0: "),
        ({"refine": -1}, "--refine = -1: "),
        ({"max_sample": 0}, "--max-sample = 0: "),
        ({"workers": 8}, "--workers = 8: the workspace has 7 partitions"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    small_workspace(tmp_path / "ws")
    refused(tmp_path / "ws", ConfigError, expected, **changes)


def test_a_workspace_that_cannot_be_calibrated(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    version = small_workspace(root)
    everything = request_file(tmp_path / "all.parquet", *(whole_item(row) for row in range(SIZES[1])))
    refused(root, InputError, "0 of them not excluded", "fewer requests in --exclude", exclude=everything)
    refused(root, InputError, "does not exist", exclude=tmp_path / "none.csv")
    with version.workspace.lock("train"):
        refused(root, WorkspaceError, "is in use by job train")
    version.workspace.manifest_path(2).unlink()
    refused(root, WorkspaceError, "holds no model yet")
    refused(tmp_path / "nowhere", WorkspaceError, "holds no workspace")


def test_a_model_that_no_reference_can_be_trained_for(tmp_path: Path) -> None:
    one_class = small_interactions().take(small_interactions().labels > 0.5)
    small_workspace(tmp_path / "ws", held_out=one_class)
    refused(tmp_path / "ws", InputError, "validation interactions have the label 1")


def test_a_model_that_is_not_finite_is_refused_before_anything_is_retrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = np.random.default_rng(8).normal(size=(sum(SIZES), 4))
    embeddings[:] = np.nan
    small_workspace(tmp_path / "ws", embeddings=embeddings)
    monkeypatch.setattr(pipeline, "train_reference", None)
    refused(
        tmp_path / "ws", SolveError, "no usable update with any of --dampings", "not_finite", "nothing was committed"
    )


def test_a_damping_without_a_usable_update_is_left_out_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = Worker.calibrate

    def spoiled(worker: Worker, examples: Any, options: SolveOptions, dampings: list[float]) -> list[Any]:
        outcomes = solve(worker, examples, options, dampings)
        return [
            dataclasses.replace(outcome, status="no_descent") if damping < 0.4 else outcome
            for damping, outcome in zip(dampings, outcomes, strict=True)
        ]

    monkeypatch.setattr(Worker, "calibrate", spoiled)
    small_workspace(tmp_path / "ws")
    version, report = calibrated(tmp_path / "ws")
    first = report["curve"][0]
    assert (first["damping"], first["status"]) == (0.2, "no_descent")
    assert first["gap"] is first["relative_gap"] is first["logloss_sample"] is None
    assert all(gap is not None for damping, gap in gaps(report).items() if damping >= 0.4)
    assert version.model.calibration.damping >= 0.4


def test_workers_that_do_not_come_back_after_the_retraining_cost_the_refinement_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_on_workers, calls = pipeline.run_on_workers, []

    def once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise GangError("the cluster has no room")
        return run_on_workers(*arguments)

    monkeypatch.setattr(pipeline, "run_on_workers", once)
    small_workspace(tmp_path / "ws")
    version, report = calibrated(tmp_path / "ws")
    assert len(calls) == 2
    assert list(gaps(report)) == list(GRID)
    assert version.model.calibration.damping == min(GRID, key=gaps(report).__getitem__)
    assert "note: the best damping was not refined: the cluster has no room" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- a gang


@pytest.mark.slow
@MODELS
@pytest.mark.usefixtures("on_local_ray")
def test_any_number_of_workers_finds_the_same_bit_for_bit(tmp_path: Path, model: str) -> None:
    small_workspace(tmp_path / "ws", name=model)
    found = [
        calibrated(copy(tmp_path / "ws", tmp_path / str(workers)), workers=workers, row_budget=55)
        for workers in (0, 1, 2)
    ]
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

    scorers = {"original": Scorer(before.model.spec, train, before.embeddings())}
    for name, changes in {"calibrated": {}, "largest": {"damping": 6.4}}.items():
        after = run(copy(root, tmp_path / name), *requests, **changes)
        scorers[name] = Scorer(after.model.spec, kept, after.embeddings())
    assert report_of(tmp_path / "calibrated", "unlearn-000004")["solver"]["damping"] == report["damping"]
    scorers["retrained"] = Scorer(before.model.spec, kept, train_reference(before, kept, seed=5).embeddings)
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
