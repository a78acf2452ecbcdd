"""What unlearning refuses: each with a message of one line, and every byte of the workspace as it was."""

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ifru_dist.errors import ConfigError, GangError, InputError, WorkspaceError
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.keys import create_key, fingerprint
from ifru_dist.workspace.store import Workspace
from tests.pipelines.batches import BATCH, ROWS, refuse, refuse_file, report_of, run
from tests.pipelines.small import (
    LONER,
    SIZES,
    pair,
    small_workspace,
    whole_item,
    whole_user,
)
from tests.workspace.datasets import random_dataset, random_embeddings, trained_workspace

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.csv", b"user,movie\n1,2\n", "lacks the column(s) item"),
        ("r.csv", b"", "is empty"),
        ("r.parquet", b"PAR1....PAR1", "is no readable Parquet"),
        ("r.csv", b"user,item\n100,00001\n107,\n", "row 2: the item cell is empty, but scope interaction needs it"),
        ("r.jsonl", b'{"user": 1, "item"', "is no readable JSON lines"),
    ],
    ids=["columns", "empty", "corrupt", "cell", "json"],
)
def test_request_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / name).write_bytes(content)
    refuse_file(tmp_path / "ws", tmp_path / name, InputError, str(tmp_path / name), expected)


def test_a_file_of_which_nothing_is_found_is_refused_and_a_partly_found_one_applied(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    unknown = [whole_user(10_000), {"user": "nobody", "item": "00001"}, whole_item(SIZES[1])]
    expected = (
        "none of the 3 requests of",
        "row 2: its user or item has no training data",
        "check the ids and the columns",
    )
    refuse(root, unknown, InputError, *expected)
    refuse(root, unknown[:1], InputError, "none of the 1 requests", "its user or item has no training data")
    after = run(root, *unknown, pair(ROWS[0]))
    assert after.manifest.version == 3
    assert report_of(root, "unlearn-000003")["requests"]["not_found"] == 3
    stranger = whole_user(10_001)
    refuse(root, [stranger], InputError, "none of the 1 requests", "settle them as not found with --allow-unmatched")
    assert run(root, stranger, allow_unmatched=True).manifest.version == 4
    assert run(root, stranger, allow_unmatched=True).manifest.version == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"workers": 8}, "--workers = 8: the workspace has 7 partitions, and each worker needs one at least"),
        ({"workers": -1}, "--workers = -1: "),
        ({"gpus_per_worker": 2}, "--gpus-per-worker = 2: "),
        ({"damping": -0.5}, "--damping = -0.5: "),
        ({"newton_steps": 0}, "--newton-steps = 0: "),
        ({"row_budget": -1}, "--row-budget = -1: "),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", BATCH, ConfigError, expected, **changes)


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_workspace(tmp_path / "ws")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    for dead in (address, f"ray://{address}"):
        monkeypatch.setenv("RAY_ADDRESS", dead)
        expected = (f"no Ray cluster at {dead} (", "check RAY_ADDRESS and RAY_AUTH_MODE")
        refuse(tmp_path / "ws", BATCH, GangError, *expected, workers=1)


def test_no_workspace_no_model_no_key(tmp_path: Path) -> None:
    refuse(tmp_path / "none", BATCH, WorkspaceError, "holds no workspace: make one with jobs/preprocess.py")
    assert not (tmp_path / "none").exists()
    workspace = Workspace(tmp_path / "data")
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        write_dataset(workspace, random_dataset(1), 5)
    refuse(workspace.root, BATCH, WorkspaceError, "holds no model yet: make one with jobs/train.py")
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws.key").rename(tmp_path / "elsewhere")
    refuse(tmp_path / "ws", BATCH, WorkspaceError, f"key file {tmp_path}/ws.key is missing", "--key-file")
    assert run(tmp_path / "ws", *BATCH, key_file=tmp_path / "elsewhere").manifest.version == 3


def test_the_key_of_another_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    key = create_key(workspace.default_key_file)
    create_key(tmp_path / "other.key")
    data = dataclasses.replace(random_dataset(1), key_fingerprint=fingerprint(key))
    trained_workspace(workspace, data, random_embeddings(1, sum(map(len, data.ids))))
    batch = [{"user": str(data.ids[0][int(data.train.rows[0, 0])]), "scope": "user", "item": None}]
    expected = (f"key file {tmp_path}/other.key holds another key", "earlier erasures would not be known again")
    refuse(workspace.root, batch, WorkspaceError, *expected, key_file=tmp_path / "other.key")
    assert run(workspace.root, *batch).manifest.version == 3


def test_a_report_that_could_not_be_written_is_noticed_first(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "file").touch()
    expected = (f"--output = {tmp_path}/file/out: ", "give a folder that can be written")
    refuse(tmp_path / "ws", BATCH, ConfigError, *expected, output=tmp_path / "file" / "out")


def test_so_is_one_in_the_workspace_unless_nothing_is_to_be_written(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws" / "reports").write_text("a file")
    expected = (f"--output = None: {tmp_path}/ws/reports: ", "give a folder that can be written")
    refuse(tmp_path / "ws", BATCH, ConfigError, *expected)
    assert run(tmp_path / "ws", *BATCH, dry_run=True).manifest.version == 2
    assert run(tmp_path / "ws", *BATCH, output=tmp_path / "out").manifest.version == 3


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("harm", [flip_a_bit, cut_short, Path.unlink], ids=["altered", "cut", "missing"])
@pytest.mark.parametrize(
    "kind", ["table", "delta", "graph", "tombstones", "forgotten", "held out", "requests", "manifest"]
)
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, harm: Callable[[Path], None]) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    version = run(root, pair(ROWS[0]), whole_user(LONER))
    manifest = version.manifest
    listed = {
        "table": version.model.base[1],
        "delta": version.model.deltas[0],
        "graph": manifest.graph[0],
        "tombstones": manifest.tombstones[0],
        "forgotten": manifest.forgotten[0],
        "held out": manifest.held_out_erased[0],
        "requests": manifest.requests[0],
    }
    harmed = root / listed[kind].path if kind in listed else version.workspace.manifest_path(3)
    if kind == "manifest" and harm is Path.unlink:
        pytest.skip("without its manifest the version before is current")
    harm(harmed)
    refuse(root, BATCH, WorkspaceError, str(harmed), "restore")


def test_a_workspace_that_another_process_uses(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    hold = (
        "import sys; from pathlib import Path; from ifru_dist.workspace.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock('train'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(root)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = ("is in use by job train on ", f"process {holder.pid}", "wait until it ends, or stop it")
        refuse(root, BATCH, WorkspaceError, *expected)
    assert run(root, *BATCH).manifest.version == 3
