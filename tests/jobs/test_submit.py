"""jobs/unlearn.py submitted to a cluster of two nodes with ``ray job submit``, with and without Ray's token."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.local import LocalCluster
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.small import LONER, pair, request_file, small_interactions, small_workspace, tree, whole_user

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
_SUBMIT = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]


@pytest.fixture(scope="module", params=["disabled", "token"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """Two nodes with one CPU each, so that two workers need both."""
    with pytest.MonkeyPatch.context() as patch:
        # On every node `python` has to be the one that holds the package's requirements.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        with LocalCluster(nodes=2, cpus_per_node=1, auth=request.param) as running:
            yield running


def submit(
    cluster: LocalCluster, *arguments: str, job: str = "unlearn", options: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Submit from the repository and wait for the job's end; stdout and stderr come together."""
    return subprocess.run(
        [*_SUBMIT, *options, "--", "python", f"jobs/{job}.py", *arguments],
        cwd=_ROOT,
        env=os.environ | cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_submitted_job_makes_a_version(cluster: LocalCluster, tmp_path: Path) -> None:
    rows = small_interactions().rows
    small_workspace(tmp_path / "ws")
    requests = request_file(tmp_path / "requests.parquet", whole_user(LONER), pair(rows[0]))
    finished = submit(
        cluster, f"--workspace={tmp_path}/ws", f"--requests={requests}", "--workers=2", "--residual-budget=100"
    )
    assert finished.returncode == 0, finished.stdout
    assert "version 2 -> 3: " in finished.stdout
    after = open_version(Workspace(tmp_path / "ws"), check_content=True)
    erased = np.flatnonzero((rows[:, 0] == LONER) | (rows == rows[0]).all(axis=1))
    assert after.manifest.version == 3
    assert after.erased_ids().tolist() == erased.tolist()
    assert (tmp_path / "ws" / "reports" / "unlearn-000003" / "report.json").is_file()


@pytest.mark.parametrize("where", ["working directory", "PYTHONPATH"])
@pytest.mark.parametrize("cluster", ["disabled"], indirect=True)
def test_a_model_of_ones_own_is_found_by_the_job_and_its_workers(
    cluster: LocalCluster, tmp_path: Path, where: str
) -> None:
    root, name, options = tmp_path / "ws", "tests.models.own_models:Scaled", ()
    if where == "PYTHONPATH":
        shutil.copy(_ROOT / "tests" / "models" / "own_models.py", tmp_path / "models_elsewhere.py")
        name = "models_elsewhere:Scaled"
        options = ("--runtime-env-json", json.dumps({"env_vars": {"PYTHONPATH": str(tmp_path)}}))
    small_workspace(root)
    trained = submit(cluster, f"--workspace={root}", f"--model={name}", "--dim=4", job="train", options=options)
    assert trained.returncode == 0, trained.stdout
    requests = request_file(tmp_path / "requests.parquet", whole_user(LONER))
    arguments = (f"--workspace={root}", f"--requests={requests}", "--workers=2", "--residual-budget=100")
    finished = submit(cluster, *arguments, options=options)
    assert finished.returncode == 0, finished.stdout
    after = open_version(Workspace(root), check_content=True)
    assert (after.manifest.version, after.model.spec.name) == (4, name)


@pytest.mark.parametrize("cluster", ["disabled"], indirect=True)
def test_a_failure_is_one_readable_line_and_a_status(cluster: LocalCluster, tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    before = tree(tmp_path)
    finished = submit(cluster, f"--workspace={tmp_path}/ws", f"--requests={tmp_path}/none.parquet")
    assert finished.returncode != 0
    lines = set(re.findall(r"error: .*", finished.stdout))
    assert lines == {f"error: request file {tmp_path}/none.parquet does not exist: check --requests"}
    assert "Traceback" not in finished.stdout
    assert tree(tmp_path) == before
