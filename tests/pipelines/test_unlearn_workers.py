"""Unlearning on real workers: their number does not matter, and a job that is killed may run again."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.processes import kill_processes, tagged_environment
from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.batches import (
    BATCH,
    ERASED,
    MODELS,
    ROWS,
    copy,
    refuse,
    report_of,
    run,
    timeless,
)
from tests.pipelines.small import (
    request_file,
    small_workspace,
    tree,
)

_ROOT = Path(__file__).resolve().parents[2]


def copies(tmp_path: Path, model: str) -> Iterator[tuple[int, Path]]:
    """The same workspace for one worker without Ray, and for gangs of 1, 2 and 3."""
    small_workspace(tmp_path / "ws", name=model)
    for workers in (0, 1, 2, 3):
        yield workers, copy(tmp_path / "ws", tmp_path / f"ws{workers}")


@MODELS
@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_no_gang_and_gangs_of_1_2_and_3_make_the_same_version_bit_for_bit(tmp_path: Path, model: str) -> None:
    manifests, trees, reports = [], [], []
    for workers, root in copies(tmp_path, model):
        after = run(root, *BATCH, workers=workers, importance="degree", row_budget=55)
        manifests.append(timeless(after.manifest))
        reports.append(report_of(root, "unlearn-000003"))
        files = tree(root)
        trees.append({name: files[name] for name in files if not name.startswith(("reports", "versions/000003"))})
        assert len(trees[-1]) == len(files) - 5  # the version, and the reports with their folders
    assert [report["workers"] for report in reports] == [0, 1, 2, 3]
    assert [report["bytes_exchanged"] > 0 for report in reports] == [False, False, True, True]
    assert reports[0]["rows_updated"] > len(np.unique(ROWS[ERASED]))  # neighbours moved, too
    for other in (1, 2, 3):
        assert manifests[other] == manifests[0]
        assert trees[other] == trees[0]
        for figure in ("influence_residual", "solver", "subgraph", "requests", "not_applied", "rows_updated"):
            assert reports[other][figure] == reports[0][figure]


def test_a_batch_that_is_tried_again_gives_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_workspace(tmp_path / "ws")
    first, second = (copy(tmp_path / "ws", tmp_path / name) for name in ("first", "second"))
    once = run(first, *BATCH)
    run_once = Workers.run

    def twice(*arguments: Any) -> Any:
        run_once(*arguments)
        return run_once(*arguments)

    monkeypatch.setattr(Workers, "run", twice)
    assert timeless(run(second, *BATCH).manifest) == timeless(once.manifest)


@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_more_gpus_or_workers_than_the_cluster_has(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", BATCH, ConfigError, "--gpus-per-worker = 1: ", "0 GPUs", gpus_per_worker=1, workers=2)
    # The Ray of these tests has four CPUs.
    refuse(tmp_path / "ws", BATCH, ConfigError, "--workers = 5: ", "4 CPUs", workers=5)


# ------------------------------------------------------------------------------------------------------------- killed

_JOB = """
import os, signal, sys
from ifru_dist.pipelines import erasing, unlearn
from ifru_dist.pipelines.command import run_command
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{patch}
run_command(unlearn.UnlearnConfig, unlearn.unlearn)
"""
_WHEN = {
    "before the manifest appears": (0, "os.link = die"),
    "while the gang solves": (
        1,
        "say = erasing.say; erasing.say = lambda text: die() if 'erasing' in text else say(text)",
    ),
}


@contextlib.contextmanager
def tag() -> Iterator[dict[str, str]]:
    """An environment for processes that are all killed afterwards."""
    name = uuid.uuid4().hex
    try:
        yield os.environ | tagged_environment(name)
    finally:
        kill_processes(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("when", _WHEN)
def test_a_killed_job_leaves_the_old_version_and_may_run_again(tmp_path: Path, when: str) -> None:
    workers, patch = _WHEN[when]
    root = tmp_path / "ws"
    small_workspace(root)
    undisturbed = copy(root, tmp_path / "undisturbed")
    path = request_file(tmp_path / "requests.parquet", *BATCH)
    before, manifest = tree(root), Workspace(root).manifest()
    options = [f"--workspace={root}", f"--requests={path}", f"--workers={workers}"]
    with tag() as environment:
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", _JOB.format(patch=patch), *options]
        killed = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    after_kill = tree(root)
    remnants = {name.split("-")[0] for name in set(after_kill) - set(before)}
    written = {"tables/delta", "ids/forgotten", "split/erased"} & remnants
    assert len(written) == (3 if when == "before the manifest appears" else 0)
    assert {name: after_kill[name] for name in before if name != "lock"} == {
        name: content for name, content in before.items() if name != "lock"
    }
    version = open_version(Workspace(root), check_content=True)
    assert version.manifest == manifest
    assert version.train().rows.tolist() == ROWS.tolist()
    assert version.forgotten_rows().tolist() == []

    again, expected = run(root, *BATCH), run(undisturbed, *BATCH)
    assert again.manifest.version == 3
    assert timeless(again.manifest) == timeless(expected.manifest)


@pytest.mark.slow
def test_the_job_from_the_command_line_starts_a_ray_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    path = request_file(tmp_path / "requests.parquet", *BATCH)
    options = [f"--workspace={root}", f"--requests={path}", "--workers=2", "--residual-budget=100"]
    with tag() as environment:
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "jobs/unlearn.py", *options]
        finished = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "version 2 -> 3" in finished.stdout
    assert open_version(Workspace(root), check_content=True).erased_ids().tolist() == ERASED.tolist()
