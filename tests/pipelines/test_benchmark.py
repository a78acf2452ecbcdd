"""The benchmark as a whole, on a small workspace that stays as it is."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ifru_dist.errors import ConfigError, GangError, SolveError, TrainingError, WorkspaceError
from ifru_dist.pipelines import benchmark as job
from ifru_dist.pipelines import benchmark_training
from ifru_dist.pipelines.benchmark import BenchmarkConfig, benchmark
from ifru_dist.pipelines.benchmark_fresh import FreshJob
from ifru_dist.pipelines.erasing import EraseFlags
from ifru_dist.pipelines.requests import Request
from ifru_dist.workspace.version import Version
from tests.pipelines.small import one_torch_thread, small_interactions, small_workspace, tree
from tests.pipelines.test_erasing import trained


def config(root: Path, **changes: Any) -> BenchmarkConfig:
    small = {"workers": (0,), "batch_sizes": (1, 3), "repeats": 2, "fresh_jobs": False}
    return BenchmarkConfig(**{"workspace": root, **small} | changes)


def run(root: Path, **changes: Any) -> dict[str, Any]:
    """Run the job, and see that only its reports are new."""
    before = tree(root.parent)
    with one_torch_thread():
        assert benchmark(config(root, **changes)) == 0
    after = tree(root.parent)
    assert {name: data for name, data in after.items() if "reports" not in name} == {
        name: data for name, data in before.items() if "reports" not in name
    }
    (folder,) = (root / "reports").glob("benchmark-*")
    return json.loads((folder / "report.json").read_text())


def test_a_benchmark_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ws"
    trained(root, {"model": "mf"})
    report = run(root)
    assert [(cell["workers"], cell["batch_size"], cell["batches"]) for cell in report["cells"]] == [
        (0, 1, 2),
        (0, 3, 2),
    ]
    for cell in report["cells"]:
        latency, phases = cell["latency_s"], cell["phases_s"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert cell["wall_s"] == latency
        assert phases["route"] + phases["gang"] + phases["commit"] < 1.5 * latency["p99"]
        assert cell["interactions"] >= cell["batch_size"]
        assert cell["exchanges"] > 0
        assert cell["bytes_exchanged"] == 0  # there is nobody to send them to
        assert len(cell["busy_s"]) == len(cell["memory_bytes"]["workers"]) == 1
        for kind, figures in (("retrain", report["retraining"]), ("fine_tune", report["fine_tuning"])):
            assert cell["speed_up"][kind] == pytest.approx(figures["seconds"] / latency["p50"])
    assert report["fine_tuning"]["epochs"] == 1
    assert report["retraining"]["interactions"] == report["fine_tuning"]["interactions"] < len(small_interactions())
    assert report["scaling"] == {"strong": [], "weak": []}
    assert report["cost_model"]["devices"] == {}
    assert report["gpu"] == {"ran": False, "reason": "--gpus-per-worker is 0"}
    assert report["config"]["batch_sizes"] == [1, 3]

    folder = root / "reports" / "benchmark-000003"
    cells, batches = (list(csv.DictReader((folder / name).open())) for name in ("cells.csv", "batches.csv"))
    assert [float(row["latency_s.p50"]) for row in cells] == [cell["latency_s"]["p50"] for cell in report["cells"]]
    assert [int(row["batch_size"]) for row in batches] == [1, 1, 3, 3]
    assert (folder / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    summary = (folder / "summary.md").read_text()
    assert "GPU: did not run" in summary
    assert summary in capsys.readouterr().out


def test_jobs_of_their_own_are_measured_and_one_that_fails_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "ws", {"model": "mf"})
    run_job = job.run_fresh_job

    def second_fails(flags: EraseFlags, copy: Version, batch: Sequence[Request]) -> FreshJob:
        if len(batch) > 1:
            raise GangError("a job of its own ended with status 1")
        return run_job(flags, copy, batch)

    monkeypatch.setattr(job, "run_fresh_job", second_fails)
    report = run(tmp_path / "ws", fresh_jobs=True, batch_sizes=(1, 2), retrain=False)
    first, second = report["cells"]
    assert first["latency_s"]["p50"] < first["fresh_job"]["committed_s"] < first["fresh_job"]["ended_s"]
    assert first["fresh_job"]["speed_up"]["retrain"] is None
    assert second["fresh_job"] is None
    assert "0 workers, 2 users: a job of its own ended with status 1" in report["notes"]


def test_all_numbers_of_workers_erase_the_same_interactions(tmp_path: Path) -> None:
    trained(tmp_path / "ws", {"model": "mf"})
    seen = [run(tmp_path / "ws", retrain=False, fine_tune=False, seed=seed) for seed in (0, 0, 1)]
    erased = [[cell["interactions"] for cell in report["cells"]] for report in seen]
    assert erased[0] == erased[1] != erased[2]
    assert seen[0]["retraining"] is seen[0]["fine_tuning"] is None
    assert seen[0]["cells"][0]["speed_up"] == {"retrain": None, "fine_tune": None}


@pytest.mark.parametrize(
    "options", [{"model": "lightgcn", "loss": "bpr", "layers": 1}, {"model": "neumf", "hidden": (4,)}]
)
def test_other_models_and_shares_of_users(tmp_path: Path, options: dict[str, Any]) -> None:
    trained(tmp_path / "ws", options)
    report = run(tmp_path / "ws", share=0.5, batch_sizes=(2,))
    assert 1 <= report["cells"][0]["interactions"] < 20
    assert report["fine_tuning"]["failure"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_a_benchmark_on_ray(tmp_path: Path) -> None:
    trained(tmp_path / "ws", {"model": "mf"})
    report = run(tmp_path / "ws", workers=(1, 2), batch_sizes=(1, 2), repeats=3, gpus_per_worker=1, retrain=False)
    cells = {(cell["workers"], cell["batch_size"]): cell for cell in report["cells"] if cell["device"] == "cpu"}
    assert sorted(cells) == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4)]
    for size in (1, 2):
        assert cells[1, size]["interactions"] == cells[2, size]["interactions"]
        # All workers decide alike; gathers for which a worker has nothing to send or to receive do not count.
        assert 0 < cells[2, size]["exchanges"] <= cells[1, size]["exchanges"]
        assert cells[1, size]["bytes_exchanged"] == 0 < cells[2, size]["bytes_exchanged"]
        assert len(cells[2, size]["busy_s"]) == 2
        assert min(cells[2, size]["busy_s"]) > 0
    assert [(row["workers"], row["batch_size"]) for row in report["scaling"]["strong"]] == [
        (1, 1),
        (2, 1),
        (1, 2),
        (2, 2),
    ]
    assert [row["workers"] for row in report["scaling"]["weak"]] == [1, 2]
    if report["machine"]["cores"] >= 2:
        patterns = report["cost_model"]["devices"]["cpu"]["patterns"]
        for fitted in patterns.values():
            assert [entry["workers"] for entry in fitted["projection"]["by_workers"]] == [8, 64, 512]
    if not torch.cuda.is_available():
        assert not report["gpu"]["ran"]
        assert "0 GPUs" in report["gpu"]["reason"]


# ------------------------------------------------------------------------------------------------------------- refused


def refuse(root: Path, error: type[Exception], message: str, **changes: Any) -> None:
    """The job fails, and leaves nothing."""
    before = tree(root.parent)
    with one_torch_thread(), pytest.raises(error, match=message):
        benchmark(config(root, **changes))
    assert tree(root.parent) == before


def test_what_cannot_be_measured_is_refused_in_words(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    refuse(root, ConfigError, r"--batch-sizes = 9: 3 batches .* of 6 users at most", batch_sizes=(9,))
    refuse(root, ConfigError, r"--scratch = .*nowhere: .* give a folder", scratch=tmp_path / "nowhere")
    refuse(root, ConfigError, r"--repeats = 0: input should be greater", repeats=0)
    refuse(root, ConfigError, r"--workers = 8: the workspace has 7 partitions", workers=(0, 8), batch_sizes=(1,))
    refuse(tmp_path / "none", WorkspaceError, "holds no workspace")


def test_a_cell_that_cannot_be_solved_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "ws", {"model": "mf"})
    measure = job.measure_cell

    def second_fails(*arguments: Any) -> Any:
        if arguments[3] > 1:
            raise SolveError("no step lowers the objective")
        return measure(*arguments)

    monkeypatch.setattr(job, "measure_cell", second_fails)
    report = run(tmp_path / "ws", retrain=False)
    assert [cell["batch_size"] for cell in report["cells"]] == [1]
    assert "0 workers, 3 users: not measured: no step lowers the objective" in report["notes"]


def test_gpus_that_are_not_there_are_told_and_the_rest_is_measured(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    trained(tmp_path / "ws", {"model": "mf"})
    report = run(tmp_path / "ws", gpus_per_worker=1, batch_sizes=(1,), retrain=False, fine_tune=False)
    assert [cell["device"] for cell in report["cells"]] == ["cpu"]
    assert not report["gpu"]["ran"]
    assert "no CUDA device" in report["gpu"]["reason"]


def test_a_training_that_diverges_costs_its_own_figure_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "ws", {"model": "mf"})

    def diverges(*_: Any) -> None:
        raise TrainingError("training diverged")

    monkeypatch.setattr(benchmark_training, "train_reference", diverges)
    report = run(tmp_path / "ws")
    assert report["retraining"]["failure"] == "training diverged"
    assert report["cells"][0]["speed_up"]["retrain"] is None
    assert report["cells"][0]["speed_up"]["fine_tune"] > 0


def test_without_matplotlib_there_is_a_note_and_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "ws", {"model": "mf"})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = run(tmp_path / "ws", retrain=False, fine_tune=False)
    assert any("matplotlib is not installed" in note for note in report["notes"])
    assert not (tmp_path / "ws" / "reports" / "benchmark-000003" / "benchmark.png").exists()
