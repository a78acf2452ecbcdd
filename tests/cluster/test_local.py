"""A cluster on this machine: nodes join, jobs run with and without a token, and nothing is left afterwards."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import ClusterStartError, LocalCluster

_COUNT_NODES = "import ray; ray.init(); print('alive', sum(node['Alive'] for node in ray.nodes()))"
_SUBMIT = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=2, cpus_per_node=1) as cluster:
        yield cluster


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def _live_processes_naming(folder: Path) -> list[str]:
    """Processes with a folder on their command line or among their open files: an oracle apart from `processes_of`.

    One without a command line was killed, and has its files only until the kernel has taken them back.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if command and any(
                str(folder) in name for name in [command, *map(os.readlink, (process / "fd").iterdir())]
            ):
                found.append(command)
    return found


@pytest.mark.slow
def test_both_nodes_are_seen_and_a_lost_one_is_missed(pair: LocalCluster) -> None:
    environment = os.environ | pair.environment
    before = _run([sys.executable, "-c", _COUNT_NODES], environment)
    assert "alive 2" in before.stdout, before.stderr

    submitted = _run([*_SUBMIT, "--", sys.executable, "-c", "print(6*7)"], environment)
    assert "\n42\n" in submitted.stdout, submitted.stderr
    assert submitted.returncode == 0

    pair.kill_node(1)
    assert not _live_processes_naming(pair.folder / "1")
    assert _live_processes_naming(pair.folder / "0")
    # The head notices by the broken connection; the driver below asks until it has.
    waiting = (
        "import ray, time\nray.init()\nwhile sum(n['Alive'] for n in ray.nodes()) > 1: time.sleep(0.1)\nprint('lost')"
    )
    after = _run([sys.executable, "-c", waiting], environment)
    assert "lost" in after.stdout, after.stderr


@pytest.mark.slow
def test_a_token_is_demanded_and_the_status_of_a_job_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token of another cluster")
    with LocalCluster(cpus_per_node=1, auth="token") as cluster:
        folder = cluster.folder
        environment = os.environ | cluster.environment
        # Still runs, in a session of its own, when the cluster stops.
        endless = _run([*_SUBMIT, "--no-wait", "--", "sh", "-c", f"echo {folder}; sleep 1000"], environment)
        assert endless.returncode == 0, endless.stderr

        failed = _run([*_SUBMIT, "--", sys.executable, "-c", "print(6*7);exit(7)"], environment)
        assert "\n42\n" in failed.stdout, failed.stderr
        assert "exit code 7" in failed.stdout + failed.stderr
        assert failed.returncode != 0

        refused = _run([*_SUBMIT, "--", "true"], environment | {"RAY_AUTH_MODE": "disabled"})
        assert refused.returncode != 0
        assert "authentication is enabled" in refused.stdout + refused.stderr

        deadline = time.monotonic() + 60
        while not any("sleep 1000" in command for command in _live_processes_naming(folder)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert not _live_processes_naming(folder)
    assert not folder.exists()


def test_a_node_that_cannot_start_is_reported_with_the_words_of_ray() -> None:
    cluster = LocalCluster(object_store_bytes=1)
    with pytest.raises(ClusterStartError, match=r"(?s)status 1:.*minimum allowed is 78643200"), cluster:
        pass
    assert cluster.folder == Path()


def test_a_start_that_takes_too_long_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(start_timeout_s=0.0)
    folders: list[Path] = []
    make_folder = cluster._make_folder
    monkeypatch.setattr(cluster, "_make_folder", lambda: (make_folder(), folders.append(cluster.folder)))
    with pytest.raises(ClusterStartError, match=r"has not joined the cluster within 0\.0 s"), cluster:
        pass
    assert not folders[0].exists()
    assert not _live_processes_naming(folders[0])


def test_a_temporary_folder_too_long_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(ClusterStartError, match="set TMPDIR to a shorter one"), LocalCluster():
        pass
    assert not list(long.iterdir())
