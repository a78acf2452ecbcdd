"""Batches erased by a job of its own."""

from pathlib import Path

import pytest
import tyro

from ifru_dist.errors import GangError
from ifru_dist.pipelines.benchmark_figures import cell_figures
from ifru_dist.pipelines.benchmark_fresh import options_of, run_fresh_job
from ifru_dist.pipelines.benchmark_scratch import scratch_copy
from ifru_dist.pipelines.erasing import EraseFlags
from ifru_dist.pipelines.requests import Request
from ifru_dist.pipelines.unlearn import UnlearnConfig
from ifru_dist.workspace.version import open_version
from tests.pipelines.measured import cell, fresh_job, sample
from tests.pipelines.test_erasing import trained
from tests.workspaces import user_id

FLAGS = EraseFlags(workers=0, damping=0.25, row_budget="all", edge_budget=700, key_file=Path("some where.key"))


def user(row: int) -> Request:
    return Request(request_id=None, scope="user", user=str(user_id(row)), item=None)


def test_the_options_give_the_same_flags() -> None:
    parsed = tyro.cli(UnlearnConfig, args=["--workspace", "ws", "--requests", "r.csv", *options_of(FLAGS)])
    assert {name: getattr(parsed, name) for name in vars(FLAGS)} == vars(FLAGS)
    assert options_of(EraseFlags()) == []


def test_a_fresh_job_commits_to_the_copy_alone(tmp_path: Path) -> None:
    version = trained(tmp_path / "ws", {"model": "mf"})
    key_file = version.workspace.default_key_file
    with scratch_copy(version, tmp_path) as copy:
        job = run_fresh_job(EraseFlags(workers=0, key_file=key_file), copy, [user(1), user(2)])
        after = open_version(copy.workspace)
        assert after.manifest.version == version.manifest.version + 1
        assert after.manifest.n_erased == sum(row[0] in (1, 2) for row in version.train().rows)
    assert 0 < job.phases["commit"] < sum(job.phases.values()) < job.committed_s + 1
    assert job.committed_s <= job.ended_s
    assert open_version(version.workspace).manifest.version == version.manifest.version


def test_a_job_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    version = trained(tmp_path / "ws", {"model": "mf"})
    flags = EraseFlags(workers=0, key_file=tmp_path / "no.key")
    with scratch_copy(version, tmp_path) as copy, pytest.raises(GangError, match=r"status \d+: error: .*no\.key"):
        run_fresh_job(flags, copy, [user(1)])


def test_figures_of_a_fresh_job_are_speed_ups_with_all_that_comes_before_the_batch() -> None:
    figures = cell_figures(cell(1, 7, [sample(2.0)], fresh=fresh_job(8.0)), retrain_s=32.0, fine_tune_s=None)
    assert figures["fresh_job"]["committed_s"] == 8.0
    assert figures["fresh_job"]["speed_up"] == {"retrain": 4.0, "fine_tune": None}
    assert figures["speed_up"]["retrain"] == 16.0
    assert cell_figures(cell(1, 7, [sample(2.0)]), retrain_s=32.0, fine_tune_s=None)["fresh_job"] is None
