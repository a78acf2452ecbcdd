"""The measurements themselves, on a small workspace."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.jobs import read_report
from benchmarks.nothing import bits_changed, file_digests, files_changed
from benchmarks.stationary import minimised, moved_rows
from benchmarks.stream import erase_in_batches
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.small import SIZES, pair, request_file, small_interactions, small_workspace

ROWS = np.unique(small_interactions().rows, axis=0)


def test_erasing_no_example_changes_no_bit_and_one_example_does(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    assert bits_changed(version, np.empty(0, np.int64)) == 0
    assert bits_changed(version, np.array([3])) > 0


def test_files_that_are_new_gone_or_altered_are_counted(tmp_path: Path) -> None:
    for name in ("same", "altered", "gone"):
        (tmp_path / name).write_text(name)
    before = file_digests(tmp_path)
    assert files_changed(before, file_digests(tmp_path)) == 0
    (tmp_path / "altered").write_text("other")
    (tmp_path / "gone").unlink()
    (tmp_path / "new").write_text("new")
    assert files_changed(before, file_digests(tmp_path)) == 3


def test_a_stream_erases_every_request_once(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    requests = request_file(tmp_path / "requests.parquet", *(pair(rows) for rows in ROWS[:11]))
    summed = erase_in_batches(tmp_path / "ws", requests, 4)
    after = open_version(Workspace(tmp_path / "ws"))
    left = {tuple(rows) for rows in after.train().rows}
    assert summed["batches"] == 4
    assert summed["interactions_erased"] == after.manifest.n_erased
    assert left == {tuple(rows) for rows in ROWS[11:]}
    each = [read_report(tmp_path / f"batch-{number:03d}") for number in range(4)]
    unsolved = sum(report["influence_residual"] * report["interactions_erased"] for report in each)
    assert summed["residual_budget"]["spent_after"] == pytest.approx(unsolved)


def test_the_independent_problem_is_the_one_that_the_job_solved(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    data, spec = small_interactions(), ModelSpec(dim=4, l2_row=0.5)
    options = TrainOptions(optimiser="lbfgs", epochs=2000)
    stationary = fit(spec, SIZES, data, None, options, show_progress=False)
    assert stationary.converged
    before = small_workspace(root, embeddings=stationary.parameters.embeddings, l2=0.0, l2_row=spec.l2_row)
    requests = request_file(tmp_path / "requests.parquet", *(pair(rows) for rows in ROWS[:5]))
    config = UnlearnConfig(
        workspace=root,
        requests=requests,
        workers=0,
        damping=0.0,
        row_budget=20,
        tolerance=1e-3,
        residual_budget=100.0,
        output=tmp_path / "report",
    )
    assert unlearn(config) == 0
    after, report, independent = open_version(Workspace(root)), read_report(tmp_path / "report"), minimised(root)
    moved = np.flatnonzero((before.embeddings() != after.embeddings()).any(axis=1))
    assert set(moved) <= set(moved_rows(after))
    assert independent["rows"] == report["subgraph"]["rows"]
    assert independent["rho_of_the_batch"] == pytest.approx(report["influence_residual"], rel=1e-6)
    assert independent["rho"] == pytest.approx(report["influence_residual"], rel=0.01)
