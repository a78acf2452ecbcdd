"""Calibration where something goes wrong: what is left out is reported, what fails leaves the workspace as it was."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import ConfigError, GangError, IfruError, InputError, SolveError, TrainingError, WorkspaceError
from ifru_dist.influence.update import Outcome
from ifru_dist.pipelines import calibrate as pipeline
from ifru_dist.pipelines.calibrate import calibrate
from ifru_dist.sharding.worker import Worker
from ifru_dist.workspace.store import Workspace
from tests.pipelines.batches import ROWS, report_of
from tests.pipelines.calibrations import GRID, calibrated, config, gaps, trained_workspace
from tests.pipelines.small import SIZES, request_file, small_workspace, tree, whole_item


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
        ({"dampings": (0.0,)}, "--dampings = 0.0: input should be greater than 0"),
        ({"row_budget": -3}, "--row-budget = -3: input should be 'auto' or 'all', or input should be greater"),
        ({"share": 1.0}, "--share = 1.0: "),
        ({"refine": -1}, "--refine = -1: "),
        ({"max_sample": 0}, "--max-sample = 0: "),
        ({"workers": 8}, "--workers = 8: the workspace has 7 partitions"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    small_workspace(tmp_path / "ws")
    refused(tmp_path / "ws", ConfigError, expected, **changes)


def test_a_damping_that_is_worse_than_doing_nothing_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    versions = Workspace(root).versions()
    assert calibrate(config(root, dampings=(1e-6,), refine=0)) == SolveError.exit_code
    assert Workspace(root).versions() == versions
    printed = capsys.readouterr().out
    assert "not kept: see the notes" in printed
    assert "closer to retraining than doing nothing, so none is kept" in printed
    report = report_of(root, "calibrate-000002")
    assert (report["version_before"], report["version_after"], report["usable"]) == (2, 2, False)
    assert report["gap"] >= report["gap_do_nothing"]
    assert calibrate(config(root, dampings=(1e-6,), refine=0, dry_run=True)) == 0


def test_a_model_without_blocks_refuses_them(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws", name="lightgcn")
    refused(
        tmp_path / "ws",
        ConfigError,
        "--preconditioner = block: lightgcn with the loss bce has no blocks",
        preconditioner="block",
    )


def test_a_workspace_that_cannot_be_calibrated(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    version = small_workspace(root)
    everything = request_file(tmp_path / "all.parquet", *(whole_item(row) for row in range(SIZES[1])))
    refused(root, InputError, "0 of them not excluded", "fewer requests in --exclude", exclude=everything)
    refused(root, InputError, "does not exist: check --exclude", exclude=tmp_path / "none.csv")
    with version.workspace.lock("train"):
        refused(root, WorkspaceError, "is in use by job train")
    version.workspace.manifest_path(2).unlink()
    refused(root, WorkspaceError, "holds no model yet")
    refused(tmp_path / "nowhere", WorkspaceError, "holds no workspace")


@pytest.mark.parametrize("changes", [{}, {"dry_run": True}])
def test_a_report_that_cannot_be_written_is_told_before_anything_is_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws" / "reports").write_text("a file")
    monkeypatch.setattr(pipeline, "run_on_workers", None)
    expected = (f"--output = None: {tmp_path}/ws/reports: ", "give a folder that can be written")
    refused(tmp_path / "ws", ConfigError, *expected, **changes)


def test_a_model_that_no_reference_can_be_trained_for(tmp_path: Path) -> None:
    options = {"epochs": 3, "patience": 3, "batch_size": 64, "learning_rate": 1e30, "seed": 1}
    small_workspace(tmp_path / "ws", options=options)
    refused(tmp_path / "ws", TrainingError, "training diverged", "smaller --learning-rate than 1e+30")


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


def spoil(monkeypatch: pytest.MonkeyPatch, changes: Callable[[float], dict[str, Any]]) -> None:
    """Let the worker's outcomes differ in some fields, by damping."""
    solve = Worker.solve_prepared

    def spoiled(worker: Worker, damping: float) -> Outcome:
        return dataclasses.replace(solve(worker, damping), **changes(damping))

    monkeypatch.setattr(Worker, "solve_prepared", spoiled)


def one_row(*values: float) -> dict[str, Any]:
    """The fields of an update that gives one row these values."""
    return {"rows": torch.tensor([int(ROWS[50, 0])]), "values": torch.tensor([values], dtype=torch.float64)}


NOT_FINITE = {
    "an embedding": one_row(0.0, 1.0, np.nan, 0.0),
    "an embedding in float32": one_row(0.0, 1.0, 1e300, 0.0),
    "a score": {"rows": torch.arange(sum(SIZES)), "values": torch.full((sum(SIZES), 4), 3e38)},
}


@pytest.mark.parametrize("what", NOT_FINITE)
def test_a_damping_whose_update_is_not_finite_is_left_out_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    spoil(monkeypatch, lambda damping: NOT_FINITE[what] if damping < 0.4 else {})
    trained_workspace(tmp_path / "ws")
    version, report = calibrated(tmp_path / "ws", refine=0)
    assert [entry["status"] == "not_finite" for entry in report["curve"]] == [True, False, False]
    assert [entry["gap"] is None for entry in report["curve"]] == [True, False, False]
    assert version.model.calibration.damping == 0.4  # the smallest of those that are left is the best


def test_updates_of_which_none_is_finite_are_refused_before_anything_is_retrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda damping: NOT_FINITE["an embedding"])
    small_workspace(tmp_path / "ws")
    monkeypatch.setattr(pipeline, "train_reference", None)
    refused(tmp_path / "ws", SolveError, "no usable update with any of --dampings", "not_finite with 0.8")


def test_a_damping_without_a_usable_update_is_left_out_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda damping: {"status": "no_descent"} if damping < 0.4 else {})
    trained_workspace(tmp_path / "ws")
    version, report = calibrated(tmp_path / "ws")
    first = report["curve"][0]
    assert (first["damping"], first["status"]) == (0.2, "no_descent")
    assert first["gap"] is first["relative_gap"] is first["logloss_sample"] is None
    assert all(gap is not None for damping, gap in gaps(report).items() if damping >= 0.4)
    assert version.model.calibration.damping == 0.4  # the smallest of those that are left is the best


@pytest.mark.parametrize("extensions", [0, 1, 4], ids=["at the first extension", "at the second", "at the refinement"])
def test_workers_that_do_not_come_back_after_the_retraining_cost_the_refinement_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], extensions: int
) -> None:
    run_on_workers, calls = pipeline.run_on_workers, []

    def at_first(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1 + extensions:
            raise GangError("the cluster has no room")
        return run_on_workers(*arguments)

    monkeypatch.setattr(pipeline, "run_on_workers", at_first)
    trained_workspace(tmp_path / "ws")
    version, report = calibrated(tmp_path / "ws")
    assert len(calls) == 2 + extensions
    tried = sorted([*GRID, *(GRID[0] / 2**k for k in range(1, 1 + extensions))])
    assert list(gaps(report)) == pytest.approx(tried)
    assert version.model.calibration.damping == min(gaps(report), key=gaps(report).__getitem__)
    assert "note: the best damping was not refined: the cluster has no room" in capsys.readouterr().out
