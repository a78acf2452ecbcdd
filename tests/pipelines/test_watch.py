"""A watched folder: every request is erased once and answered, whatever dies in between."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import ConfigError, InputError, WorkspaceBusyError
from ifru_dist.pipelines.inbox import Inbox
from ifru_dist.pipelines.unlearn import RETRAINING_DUE, UnlearnConfig, unlearn
from ifru_dist.workspace.history import find_events, wanted_digests
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.store import Workspace, utc_now
from ifru_dist.workspace.version import open_version
from tests.pipelines.batches import ERASED, ROWS, copy
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    one_torch_thread,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.pipelines.test_erasing import files_of, manifests_of
from tests.workspaces import user_id

_ROOT = Path(__file__).parents[2]
FILES = {
    "a.parquet": [whole_user(LONER), pair(ROWS[0])],
    "b.parquet": [whole_user(BUSY), whole_item(int(ROWS[7, 1]) - SIZES[0]), pair(ROWS[0])],
    "c.parquet": [pair(ROWS[50]), whole_user(10_000)],
}
"""Together they erase ERASED."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    small_workspace(tmp_path / "ws")
    return tmp_path / "ws"


def put(folder: Path, files: dict[str, list[dict[str, Any]]] = FILES) -> Path:
    """Put files into a folder, the first one first."""
    folder.mkdir(exist_ok=True)
    for number, (name, rows) in enumerate(files.items()):
        path = request_file(folder / f"{name}.part", *rows)
        os.utime(path, (1_700_000_000 + number,) * 2)
        path.rename(folder / name)
    return folder


def watch(root: Path, folder: Path, **changes: Any) -> int:
    options = {"workspace": root, "watch": folder, "workers": 0, "residual_budget": 100, "until_empty": True}
    return unlearn(UnlearnConfig(**options | changes))


def receipts(folder: Path) -> dict[str, dict[str, Any]]:
    """What was answered, by file, without the times."""
    found = {}
    for path in sorted((folder / "receipts").iterdir()):
        receipt = json.loads(path.read_text())
        found[receipt["file"]] = {name: value for name, value in receipt.items() if name != "finished"}
    return found


def user_digests(root: Path, user: int) -> set[bytes]:
    """By which requests for a whole user are known."""
    return wanted_digests(load_key(Workspace(root).default_key_file), str(user_id(user)), None)


def left(folder: Path) -> list[str]:
    """Files that still hold requests."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"
    )


@pytest.mark.parametrize("max_batch", [10_000, 3, 1])
def test_every_file_is_erased_and_answered(root: Path, tmp_path: Path, max_batch: int) -> None:
    folder = put(tmp_path / "inbox")
    assert watch(root, folder, max_batch=max_batch) == 0
    version = open_version(Workspace(root), check_content=True)
    assert version.erased_ids().tolist() == ERASED.tolist()
    answers = receipts(folder)
    assert list(answers) == list(FILES)
    statuses = [[entry["status"] for entry in answer["requests"]] for answer in answers.values()]
    assert statuses == [["applied"] * 2, ["applied", "applied", "duplicate"], ["applied", "not_found"]]
    versions = [entry["version"] for answer in answers.values() for entry in answer["requests"]]
    if max_batch == 10_000:
        assert versions == [3, 3, 3, 3, 3, 3, None]
    else:
        applied = [entry for answer in answers.values() for entry in answer["requests"] if entry["status"] == "applied"]
        assert [entry["version"] for entry in applied] == sorted(entry["version"] for entry in applied)
        assert versions[4] == versions[1]  # the duplicate names the version of the one before it
    assert answers["b.parquet"]["applied"] == 2
    assert left(folder) == []
    assert answers["a.parquet"]["received"] == "2023-11-14T22:13:20+00:00"
    text = "".join(path.read_text() for path in (folder / "receipts").iterdir())
    assert str(user_id(BUSY)) not in re.findall(r"\w+", text)


def test_a_file_that_cannot_be_used_is_laid_aside_and_the_others_are_erased(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox")
    (folder / "broken.csv").write_text("user,item\n1,\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "notes.txt").write_text("not for you")
    (folder / ".hidden.csv").write_text("user,item\n1,2\n")
    assert watch(root, folder) == 0
    assert left(folder) == [".hidden.csv", "notes.txt", "rejected/broken.csv", "rejected/empty.jsonl"]
    answers = receipts(folder)
    assert answers["broken.csv"]["status"] == "rejected"
    assert "item cell is empty" in answers["broken.csv"]["reason"]
    assert "is empty" in answers["empty.jsonl"]["reason"]
    assert open_version(Workspace(root)).erased_ids().tolist() == ERASED.tolist()


def test_what_is_no_request_file_is_left_alone_and_said_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path / "inbox")
    (folder / "folder.csv").mkdir()
    (tmp_path / "elsewhere.csv").write_text("user,item\n1,i1\n")
    (folder / "link.csv").symlink_to(tmp_path / "elsewhere.csv")
    (folder / f"{'n' * 230}.csv").write_text("user,item\n1,i1\n")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.csv")).write_text("user,item\n1,i1\n")
    (folder / "c.parquet").rename(folder / "c.PARQUET")  # as good as any
    assert watch(root, folder, max_batch=3) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left alone: ")]
    assert len(told) == 4
    for reason in ("a link or a folder", "longer than 200 bytes", "no UTF-8"):
        assert any(reason in line for line in told)
    assert open_version(Workspace(root)).erased_ids().tolist() == ERASED.tolist()
    assert (folder / "link.csv").is_symlink()


def test_names_are_printed_on_one_line_without_control_characters(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a\nanswered b.csv: 9 requests.csv", "c\x1b[2J  d.csv", "e\n  f.csv"]
    files = {names[0]: "user,item\n1,2\n", names[1]: "user,item\n1,\n", names[2]: "\n"}
    folder = put(tmp_path / "inbox", {})
    for name, content in files.items():
        (folder / name).write_text(content)
    assert watch(root, folder) == 0
    printed = capsys.readouterr().out
    assert not any(line.startswith(("answered b", "  f.csv")) for line in printed.splitlines())
    assert "answered a\\nanswered b.csv: 9 requests.csv: 1 requests\n" in printed
    assert "rejected c\\x1b[2J  d.csv: " in printed
    assert "\x1b" not in printed
    answers = receipts(folder)
    assert set(answers) == set(names)
    assert not any(str(tmp_path) in answers[name]["reason"] for name in names[1:])


def test_a_file_of_the_future_was_received_now(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox", {"a.parquet": FILES["a.parquet"]})
    os.utime(folder / "a.parquet", (4_000_000_000,) * 2)
    before = utc_now()
    assert watch(root, folder) == 0
    assert before <= receipts(folder)["a.parquet"]["received"] <= utc_now()
    (event, *_) = find_events(root, Workspace(root).manifest().requests)
    assert event.received == receipts(folder)["a.parquet"]["received"]


def test_a_rejected_file_does_not_replace_another_of_its_name(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox", {})
    for content in ("user,item\n1,\n", "user,item\n,2\n"):
        (folder / "r.csv").write_text(content)
        assert watch(root, folder) == 0
    assert len(left(folder)) == len(list((folder / "receipts").iterdir())) == 2


def test_only_the_file_that_is_too_much_is_refused_by_a_guard(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox")
    assert watch(root, folder, max_interactions=10) == 0
    answers = receipts(folder)
    assert [answers[name]["status"] for name in FILES] == ["done", "rejected", "done"]
    assert "--max-interactions = 10, but" in answers["b.parquet"]["reason"]
    assert (answers["b.parquet"]["applied"], answers["b.parquet"]["rejected"]) == (0, 3)
    rows = answers["b.parquet"]["requests"]
    assert [(entry["row"], entry["status"], entry["version"]) for entry in rows] == [
        (row, "rejected", None) for row in (1, 2, 3)
    ]
    assert left(folder) == ["rejected/b.parquet"]
    assert np.isin(BUSY, open_version(Workspace(root)).train().rows[:, 0])

    manifest = Workspace(root).manifest()
    events = find_events(root, manifest.requests, digests=user_digests(root, BUSY))
    assert [(event.status, event.interactions) for event in events] == [("rejected", 0)]
    assert "--max-interactions = 10, but" in events[0].reason

    (folder / "rejected" / "b.parquet").rename(folder / "b.parquet")
    assert watch(root, folder, max_interactions=10) == 0  # still too much; no second time in the ledger
    assert Workspace(root).manifest() == manifest
    (folder / "rejected" / "b.parquet").rename(folder / "b.parquet")  # once the guard is raised it is put in again
    assert watch(root, folder) == 0
    assert receipts(folder)["b.parquet"]["status"] == "done"
    assert open_version(Workspace(root)).erased_ids().tolist() == ERASED.tolist()
    events = find_events(root, Workspace(root).manifest().requests, digests=user_digests(root, BUSY))
    assert [event.status for event in events] == ["rejected", "applied"]


def test_a_batch_that_erases_nothing_is_in_the_ledger_also_when_its_receipt_was_lost(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "inbox", {"x.parquet": [whole_user(10_000), {"user": "nobody", "item": "00001"}]})

    def dies(inbox: Inbox, path: Path, content: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "_write_receipt", dies)
        with pytest.raises(KeyboardInterrupt):
            watch(root, folder)
    manifest = Workspace(root).manifest()
    assert (manifest.version, manifest.n_erased) == (3, 0)
    assert watch(root, folder) == 0
    assert Workspace(root).manifest() == manifest
    (answer,) = receipts(folder).values()
    assert (answer["status"], answer["not_found"], left(folder)) == ("done", 2, [])
    events = find_events(root, manifest.requests)
    assert [(event.status, event.version) for event in events] == [("not_found", 3)] * 2


def test_a_file_that_is_put_in_again_holds_duplicates_under_its_name_or_another(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox")
    watch(root, folder)
    before, first = manifests_of(root), tree(folder / "receipts")
    put(folder)
    assert watch(root, folder) == 0
    assert (manifests_of(root), left(folder)) == (before, [])
    kept = {name for name in tree(folder / "receipts") if name.endswith(".1.json")}
    assert {name.replace(".1.json", ".json"): tree(folder / "receipts")[name] for name in kept} == first
    statuses = [[entry["status"] for entry in answer["requests"]] for answer in receipts(folder).values()]
    assert statuses == [["duplicate"] * 2, ["duplicate"] * 3, ["duplicate", "not_found"]]
    put(folder, {"again.parquet": FILES["a.parquet"]})
    assert watch(root, folder) == 0
    assert [entry["status"] for entry in receipts(folder)["again.parquet"]["requests"]] == ["duplicate"] * 2
    assert [entry["version"] for entry in receipts(folder)["again.parquet"]["requests"]] == [3, 3]
    assert manifests_of(root) == before


def test_requests_wait_for_each_other_but_not_for_long(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox", {"a.parquet": FILES["a.parquet"]})
    process = start(root, folder, "--max-wait-s=4", "--max-batch=100")
    try:
        wait_for(lambda: (folder / "received" / "a.parquet").exists())
        put(folder, {"b.parquet": FILES["b.parquet"]})
        wait_for(lambda: len(list((folder / "receipts").glob("*.json"))) == 2)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "stopped at version 3: nothing is half done" in output
    assert {entry["version"] for answer in receipts(folder).values() for entry in answer["requests"]} == {3}


def start(root: Path, folder: Path, *options: str, patch: str = "") -> "subprocess.Popen[str]":
    """The job as a process of its own, with something patched."""
    code = f"""
import os, signal, sys, time
from ifru_dist.pipelines import erasing, inbox, unlearn, watching
from ifru_dist.pipelines.command import run_command
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{patch}
run_command(unlearn.UnlearnConfig, unlearn.unlearn)
"""
    fixed = [f"--workspace={root}", f"--watch={folder}", "--workers=0", "--residual-budget=100"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *fixed, *options],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


POINTS = {
    "before a file is taken over": "inbox.Path.rename = die",
    "after a file was taken over": "inbox.read_requests = die",
    "before the batch is routed": "erasing.Router = die",
    "before the commit": "erasing.commit_erasure = die",
    "after the commit": "inbox.Inbox.settle = die",
    "before a receipt": "inbox.Inbox._write_receipt = die",
    "while a receipt is written": "inbox.json.dump = die",
    "after a receipt": "write = inbox.Inbox._write_receipt; inbox.Inbox._write_receipt = lambda *a: (write(*a), die())",
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_whatever_dies_the_next_run_finishes_and_nothing_is_done_twice(root: Path, tmp_path: Path, point: str) -> None:
    undisturbed = copy(root, tmp_path / "undisturbed")
    watch(undisturbed, put(tmp_path / "other"), max_batch=4)
    folder = put(tmp_path / "inbox")
    patch = POINTS[point]
    killed = start(root, folder, "--until-empty", "--max-batch=4", patch=patch)
    output, _ = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, output
    assert watch(root, folder, max_batch=4) == 0
    assert manifests_of(root) == manifests_of(undisturbed)
    assert files_of(root) == files_of(undisturbed)
    assert receipts(folder) == receipts(tmp_path / "other")
    assert left(folder) == []


def test_the_second_job_refuses_or_waits_as_asked(root: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "inbox")
    with Workspace(root).lock("a long job"), pytest.raises(WorkspaceBusyError, match="in use by job a long job on"):
        watch(root, folder)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with Workspace(root).lock("a short job"):
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    threading.Timer(0.5, release.set).start()
    assert watch(root, folder, lock_wait_s=30) == 0
    holder.join()


def test_options_that_do_not_go_together_are_refused(root: Path, tmp_path: Path) -> None:
    for changes in ({"watch": None}, {"requests": tmp_path / "r.csv"}):
        with pytest.raises(ConfigError, match="--requests and --watch: give one of them"):
            watch(root, tmp_path / "inbox", **changes)
    for changes in ({"dry_run": True}, {"output": tmp_path / "out"}, {"allow_unmatched": True}):
        with pytest.raises(ConfigError, match=f"--{next(iter(changes)).replace('_', '-')} goes with --requests"):
            watch(root, tmp_path / "inbox", **changes)
    file = request_file(tmp_path / "r.parquet", pair(ROWS[0]))
    for changes in ({"until_empty": True}, {"max_batch": 9}, {"max_wait_s": 0.0}):
        with pytest.raises(ConfigError, match=f"--{next(iter(changes)).replace('_', '-')} goes with --watch"):
            unlearn(UnlearnConfig(workspace=root, requests=file, workers=0, **changes))
    with pytest.raises(ConfigError, match="lies in the workspace"):
        watch(root, root / "requests")
    with pytest.raises(InputError, match=r"--watch .*inbox: there is no such folder: make it"):
        watch(root, tmp_path / "inbox")
    assert not (tmp_path / "inbox").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--watch .*: name a folder that you may write to"):
        watch(root, tmp_path / "file")


def test_a_model_past_its_residual_budget_is_told_at_the_end(root: Path, tmp_path: Path) -> None:
    assert watch(root, put(tmp_path / "inbox"), residual_budget=1e-9) == RETRAINING_DUE
    assert len(open_version(Workspace(root)).train()) == len(small_interactions()) - len(ERASED)
