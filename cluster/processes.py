"""Which processes were started for a cluster or a command, and how to kill all of them (Linux: reads /proc).

A process belongs to a tag if it has the tag's variable in its environment, if it lives in one of the tag's sessions, or
if its parent belongs. All three are needed: Ray's agents overwrite their environment when they set their title, job
entrypoints leave the session of the node that starts them, and an orphan has lost its parent.

``python -m cluster.processes COMMAND ...`` runs a command and fails if the command leaves processes behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

TAG_VARIABLE = "IFRU_DIST_PROCESS_TAG"
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Process:
    """One live process, as /proc shows it."""

    pid: int
    parent: int
    session: int
    tagged: bool
    """Whether the tag is in its environment."""
    command: str
    """Command line, or the title that the process gave itself."""


def tagged_environment(tag: str) -> dict[str, str]:
    """The variables that make a child process, and all that it starts, belong to ``tag``.

    Tags nest: a process started under ``outer`` that starts one under ``inner`` makes it belong to both.
    """
    outer = os.environ.get(TAG_VARIABLE)
    return {TAG_VARIABLE: f"{outer} {tag}" if outer else tag}


def processes_of(tag: str, sessions: Collection[int]) -> list[Process]:
    """The live processes of a tag, zombies and the caller left out, in the order of their ids.

    Args:
        tag: as given to `tagged_environment`.
        sessions: ids of the sessions (each the id of the process that opened it) that belong to the tag.
    """
    table = {process.pid: process for process in _all_processes(tag)}
    owned = {pid for pid, process in table.items() if process.tagged or process.session in sessions}
    while grown := {pid for pid, process in table.items() if process.parent in owned} - owned:
        owned |= grown
    return [table[pid] for pid in sorted(owned - {os.getpid()})]


def kill_processes(tag: str, sessions: Collection[int], *, timeout_s: float = 30.0) -> None:
    """Kill all processes of a tag and wait until they are gone.

    Raises:
        TimeoutError: if some are alive after ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    # Again and again: a process seen now may have started another one before it died.
    while left := processes_of(tag, sessions):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} processes survive SIGKILL for {timeout_s} s: {_listed(left)}")
        for process in left:
            with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def wait_for_end(tag: str, sessions: Collection[int], *, timeout_s: float) -> list[Process]:
    """Wait until no process of a tag is left; returns those alive after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while (left := processes_of(tag, sessions)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def run_cleanly(command: list[str], *, settle_s: float = 30.0) -> int:
    """Run a command in a session of its own and kill what it leaves behind.

    Args:
        command: program and arguments.
        settle_s: how long processes may outlive the command before they count as left behind.

    Returns:
        The command's exit status, or 1 if it succeeded but left processes behind.
    """
    tag = uuid.uuid4().hex
    child = subprocess.Popen(command, env=os.environ | tagged_environment(tag), start_new_session=True)
    try:
        status = child.wait()
        left = wait_for_end(tag, {child.pid}, timeout_s=settle_s)
    finally:
        kill_processes(tag, {child.pid})
    if left:
        print(f"{command[0]} left {len(left)} processes behind: {_listed(left)}", file=sys.stderr)
    # A command ended by a signal has a negative status, which a shell knows as 128 and the signal's number.
    return (128 - status if status < 0 else status) or int(bool(left))


def _all_processes(tag: str) -> list[Process]:
    """Every live process of the machine."""
    found = (_read_process(entry, tag) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def _read_process(entry: Path, tag: str) -> Process | None:
    """One folder of /proc; None if the process has ended or belongs to another user."""
    try:
        # "pid (name) state parent group session ...", where the name may hold spaces and brackets.
        state, parent, _, session = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
        environment = (entry / "environ").read_bytes()
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if state in "ZX":
        return None
    tagged = tag.encode() in environment
    return Process(pid=int(entry.name), parent=int(parent), session=int(session), tagged=tagged, command=command)


def _listed(processes: list[Process]) -> str:
    """Ids and commands, for a message."""
    return ", ".join(f"{process.pid} ({process.command[:80]})" for process in processes)


def _main(command: list[str]) -> int:
    """Run the command of the command line."""
    if not command:
        print("usage: python -m cluster.processes COMMAND ...", file=sys.stderr)
        return 2
    # A terminated guard takes its command along: the exit unwinds through `run_cleanly`.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return run_cleanly(command)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
