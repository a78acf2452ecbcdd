import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ifru_dist.errors import VersionConflictError, WorkspaceBusyError, WorkspaceError
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.store import Workspace
from tests.workspace.datasets import random_dataset

_HOLD = """
import sys, time
from pathlib import Path
from ifru_dist.workspace.store import Workspace
with Workspace(Path(sys.argv[1])).lock("unlearn"):
    print("held", flush=True)
    time.sleep(60)
"""

_COMMIT = """
import sys, time
from pathlib import Path
from ifru_dist.errors import VersionConflictError
from ifru_dist.workspace.store import Workspace
workspace, name = Workspace(Path(sys.argv[1])), sys.argv[2]
digest = workspace.digest(1)
manifest = workspace.manifest().successor(parent_digest=digest, kind="train", created="now", extra={"writer": name})
print("ready", flush=True)
sys.stdin.readline()
try:
    workspace.commit(manifest)
    print("won", flush=True)
except VersionConflictError:
    print("lost", flush=True)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python programs and kill those that are left at the end."""
    running: list[subprocess.Popen[str]] = []

    def popen(program: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", program, *arguments]
        root = Path(__file__).resolve().parents[2]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        running.append(process)
        return process

    yield popen
    for process in running:
        process.kill()
        process.communicate()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "ws")
    write_dataset(made, random_dataset(1), 4)
    return made


def test_of_several_processes_that_commit_one_version_exactly_one_wins(workspace: Workspace, start: Start) -> None:
    writers = [start(_COMMIT, str(workspace.root), str(number)) for number in range(2)]
    assert [_line(writer) for writer in writers] == ["ready", "ready"]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    outcomes = [_line(writer) for writer in writers]
    assert sorted(outcomes) == ["lost", "won"]
    assert workspace.manifest().extra == {"writer": str(outcomes.index("won"))}
    assert sorted(path.name for path in workspace.versions_folder.iterdir()) == ["000001.json", "000002.json"]


def test_a_version_is_never_replaced(workspace: Workspace) -> None:
    manifest = workspace.manifest()
    with pytest.raises(VersionConflictError, match="nothing of this job's work was kept; run it again"):
        workspace.commit(manifest)
    assert workspace.manifest() == manifest


def test_a_workspace_held_by_another_process_names_it(workspace: Workspace, start: Start) -> None:
    holder = start(_HOLD, str(workspace.root))
    assert _line(holder) == "held"
    expected = rf"{workspace.root} is in use by job unlearn on .*, process {holder.pid}, since 20.*: wait"
    with pytest.raises(WorkspaceBusyError, match=expected), workspace.lock("train"):
        pass
    workspace.manifest()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"job": "x"}'])
def test_a_holder_that_cannot_be_told_is_another_job(workspace: Workspace, text: str) -> None:
    with workspace.lock("unlearn"):
        (workspace.root / "lock").write_text(text)
        with pytest.raises(WorkspaceBusyError, match="is in use by another job: wait"), workspace.lock("train"):
            pass


def test_a_lock_ends_with_its_process_even_if_that_is_killed(workspace: Workspace, start: Start) -> None:
    holder = start(_HOLD, str(workspace.root))
    assert _line(holder) == "held"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with workspace.lock("train"):
        pass


def test_a_lock_ends_with_its_context_also_after_an_error(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="inside"), workspace.lock("train"):
        raise ValueError("inside")
    with workspace.lock("train"), pytest.raises(WorkspaceBusyError, match="job train"), workspace.lock("unlearn"):
        pass


def test_a_workspace_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkspaceError, match=r"file cannot be used as a workspace"),
        Workspace(tmp_path / "file").lock("x"),
    ):
        pass


def test_a_torn_manifest_is_named(workspace: Workspace) -> None:
    path = workspace.manifest_path(1)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WorkspaceError, match=r"versions/000001\.json is damaged"):
        workspace.manifest()


def test_what_an_attempt_left_behind_is_not_seen(workspace: Workspace) -> None:
    (workspace.versions_folder / ".writing-1-abcd").write_text("{")
    assert workspace.versions() == [1]


def test_versions_beyond_six_digits_stay_in_order(workspace: Workspace) -> None:
    content = workspace.manifest_path(1).read_bytes()
    for number in (999_999, 1_000_000):
        workspace.manifest_path(number).write_bytes(content)
    assert workspace.versions() == [1, 999_999, 1_000_000]


def test_a_manifest_under_another_number_is_named(workspace: Workspace) -> None:
    workspace.manifest_path(2).write_bytes(workspace.manifest_path(1).read_bytes())
    with pytest.raises(WorkspaceError, match=r"versions/000002\.json holds version 1: restore it from a backup"):
        workspace.manifest()


def test_the_key_lies_beside_the_workspace(tmp_path: Path) -> None:
    assert Workspace(tmp_path / "ws").default_key_file == tmp_path / "ws.key"


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders whose names are read."""
    seen: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(str(path)) or scan(path))
    return seen


def _commit_next(workspace: Workspace) -> int:
    manifest = workspace.manifest()
    digest = workspace.digest(manifest.version)
    workspace.commit(manifest.successor(parent_digest=digest, kind="release", created="now"))
    return manifest.version + 1


def test_versions_of_other_writers_are_seen_and_no_call_but_the_first_reads_all_names(
    workspace: Workspace, listings: list[str]
) -> None:
    reader = Workspace(workspace.root)
    assert reader.newest() == reader.manifest().version == 1
    read_once = len(listings)
    assert read_once > 0
    for _ in range(3):
        _commit_next(workspace)
        latest = _commit_next(workspace)
        listings.clear()
        assert reader.newest() == reader.manifest().version == latest
        reader.check_retained(reader.manifest(latest - 1))
        reader.check_parent(reader.manifest())
        assert listings == []


def test_a_folder_that_was_restored_from_an_older_backup_is_read_again(workspace: Workspace) -> None:
    for _ in range(3):
        _commit_next(workspace)
    assert workspace.newest() == 4
    for number in (3, 4):
        workspace.manifest_path(number).unlink()
    assert workspace.newest() == 2
    assert workspace.manifest().version == 2
    for path in workspace.versions_folder.iterdir():
        path.unlink()
    with pytest.raises(WorkspaceError, match=r"holds no workspace: make one with jobs/preprocess\.py"):
        workspace.newest()


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_manifest_that_is_missing_between_others_is_named(workspace: Workspace, opened_before: bool) -> None:
    for _ in range(3):
        _commit_next(workspace)
    reader = Workspace(workspace.root)
    if opened_before:
        assert reader.newest() == 4
    newest = workspace.manifest()
    workspace.manifest_path(3).unlink()
    expected = r"versions/000003\.json is missing: restore it from a backup of the workspace"
    with pytest.raises(WorkspaceError, match=expected):
        reader.manifest(3)
    with pytest.raises(WorkspaceError, match=expected):
        reader.check_parent(newest)
    with pytest.raises(WorkspaceError, match=expected):
        Workspace(workspace.root).manifest()


def test_a_version_is_there_where_its_manifest_is_a_file(workspace: Workspace, tmp_path: Path) -> None:
    workspace.manifest_path(2).mkdir()
    assert [workspace.has(number) for number in (0, 1, 2, 3)] == [False, True, False, False]
    assert not Workspace(tmp_path / "nothing").has(1)
