"""Finding and killing what a command started, however it tries to get away."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cluster.processes import TAG_VARIABLE, kill_processes, processes_of, run_cleanly, tagged_environment


def _is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("status", [0, 7])
def test_the_status_of_a_tidy_command_is_passed_on(status: int) -> None:
    assert run_cleanly(["sh", "-c", f"exit {status}"]) == status


def test_a_command_ended_by_a_signal_has_the_status_that_a_shell_gives_it() -> None:
    assert run_cleanly(["sh", "-c", "kill -9 $$"]) == 128 + 9


@pytest.mark.parametrize(
    "escape",
    ["", "setsid", "env -i"],
    ids=["background", "own session, tag in the environment", "cleared environment, same session"],
)
def test_an_orphan_is_killed_and_makes_the_command_fail(
    escape: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pid_file = tmp_path / "pid"
    script = f"{escape} sh -c 'echo $$ >{pid_file}; exec sleep 100' & while ! [ -s {pid_file} ]; do sleep 0.01; done"
    assert run_cleanly(["sh", "-c", script], settle_s=0.2) == 1
    pid = int(pid_file.read_text())
    assert not _is_alive(pid)
    assert f"left 1 processes behind: {pid} (sleep 100)" in capfd.readouterr().err


def test_a_failure_keeps_its_own_status_though_something_is_left() -> None:
    assert run_cleanly(["sh", "-c", "sleep 100 & exit 7"], settle_s=0.2) == 7


def test_a_process_that_ends_soon_after_the_command_is_not_left_behind() -> None:
    assert run_cleanly(["sh", "-c", "sleep 0.3 &"], settle_s=5.0) == 0


def test_a_child_without_tag_and_session_is_found_by_its_parent() -> None:
    tag = uuid.uuid4().hex
    parent = subprocess.Popen(
        ["sh", "-c", "env -i setsid -w sleep 100; true"], env=os.environ | tagged_environment(tag)
    )
    deadline = time.monotonic() + 10
    while not any("sleep" in process.command and not process.tagged for process in processes_of(tag, ())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill_processes(tag, ())
    parent.wait()
    assert processes_of(tag, ()) == []


def test_other_processes_are_left_alone() -> None:
    bystander = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        assert run_cleanly(["sh", "-c", "sleep 100 &"], settle_s=0.0) == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_tags_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TAG_VARIABLE, "outer")
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | tagged_environment("inner")
    )
    try:
        assert [process.pid for process in processes_of("inner", ())] == [child.pid]
        assert child.pid in [process.pid for process in processes_of("outer", ())]
    finally:
        child.communicate(b"\n")
