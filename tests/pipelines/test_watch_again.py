"""A file that is put into a watched folder again, under its name and with its content, asks again."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ifru_dist.pipelines import inbox as module
from ifru_dist.pipelines.inbox import Inbox
from ifru_dist.pipelines.release import ReleaseConfig, release
from ifru_dist.workspace.files import open_arrow
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.appended import appended
from tests.pipelines.batches import ROWS, copy
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    one_torch_thread,
    pair,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.pipelines.test_erasing import manifests_of
from tests.pipelines.test_watch import left, put, receipts, watch
from tests.workspaces import item_id, user_id

FILE = "a.parquet"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    small_workspace(tmp_path / "ws")
    return tmp_path / "ws"


def sign_up_again(root: Path, user: int) -> None:
    """Release an erased user and append an interaction of theirs."""
    assert release(ReleaseConfig(workspace=root, user=str(user_id(user)), reason="signed up again")) == 0
    appended(root, [(user_id(user), item_id(3)), (user_id(user), item_id(4))])
    assert knows(root, user)


def knows(root: Path, user: int) -> bool:
    return user_id(user) in open_version(Workspace(root)).ids(0).to_pylist()


def statuses(folder: Path, name: str = FILE) -> list[str]:
    """What the last receipt of a file says of its requests."""
    return [entry["status"] for entry in receipts(folder)[name]["requests"]]


def deliveries(root: Path) -> Counter[tuple[str, int]]:
    """How often the ledger holds a row of a file."""
    found: Counter[tuple[str, int]] = Counter()
    for entry in Workspace(root).manifest().requests:
        table = open_arrow(root, entry).read_all()
        found.update(zip(table.column("delivery").to_pylist(), table.column("row").to_pylist(), strict=True))
    return found


TICKETS = pytest.mark.parametrize("ticket", [{}, {"request_id": "T-1"}], ids=["no id", "an id"])


@TICKETS
def test_a_user_who_signed_up_again_is_erased_again(root: Path, tmp_path: Path, ticket: dict[str, str]) -> None:
    files = {FILE: [whole_user(BUSY) | ticket, pair(ROWS[50]) | ticket]}
    folder = put(tmp_path / "inbox", files)
    watch(root, folder)
    sign_up_again(root, BUSY)
    for _ in range(2):
        put(folder, files)
        assert watch(root, folder) == 0
        assert not knows(root, BUSY)
    assert statuses(folder) == ["duplicate"] * 2
    kept = [path.name.split(".", 3)[3] for path in sorted((folder / "receipts").iterdir())]
    assert kept == ["1.json", "2.json", "json"]
    assert set(deliveries(root).values()) == {1}
    assert left(folder) == []


@TICKETS
def test_a_user_who_was_not_found_and_was_appended_since_is_erased(
    root: Path, tmp_path: Path, ticket: dict[str, str]
) -> None:
    files = {FILE: [whole_user(SIZES[0] + 60) | ticket]}
    folder = put(tmp_path / "inbox", files)
    watch(root, folder)
    assert statuses(folder) == ["not_found"]
    appended(root, [(user_id(SIZES[0] + 60), item_id(3))])
    put(folder, files)
    assert watch(root, folder) == 0
    assert statuses(folder) == ["applied"]
    assert not knows(root, SIZES[0] + 60)


def test_what_a_restored_backup_does_not_know_is_erased_again(root: Path, tmp_path: Path) -> None:
    backup = copy(root, tmp_path / "backup")
    files = {FILE: [whole_user(BUSY)]}
    folder = put(tmp_path / "inbox", files)
    watch(root, folder)
    put(folder, files)
    assert watch(backup, folder) == 0
    assert (statuses(folder), knows(backup, BUSY)) == (["applied"], False)


def test_deleted_receipts_do_not_let_the_ledger_answer_for_a_file_that_comes_again(root: Path, tmp_path: Path) -> None:
    files = {FILE: [whole_user(BUSY)]}
    folder = put(tmp_path / "inbox", files)
    watch(root, folder)
    sign_up_again(root, BUSY)
    for path in (folder / "receipts").iterdir():
        path.unlink()
    put(folder, files)
    assert watch(root, folder) == 0
    assert (statuses(folder), knows(root, BUSY)) == (["applied"], False)


def test_a_file_that_was_rejected_after_a_part_of_it_was_erased_asks_again_for_all(root: Path, tmp_path: Path) -> None:
    files = {FILE: [whole_user(LONER), whole_user(BUSY), whole_item(4)]}
    folder = put(tmp_path / "inbox", files)
    assert watch(root, folder, max_batch=1, max_interactions=5) == 0
    assert statuses(folder) == ["applied", "rejected", "rejected"]
    answer = receipts(folder)[FILE]
    assert (answer["status"], answer["applied"], answer["rejected"]) == ("rejected", 1, 2)
    sign_up_again(root, LONER)
    (folder / "rejected" / FILE).rename(folder / FILE)
    assert watch(root, folder) == 0
    assert statuses(folder) == ["applied"] * 3
    assert not any(knows(root, user) for user in (LONER, BUSY))


@pytest.mark.parametrize("moment", ["accept", "answer"])
def test_the_same_file_twice_in_one_run_is_answered_twice(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    files = {FILE: [whole_user(BUSY), pair(ROWS[50])]}
    folder = put(tmp_path / "inbox", files)
    real, calls = getattr(Inbox, moment), []

    def and_again(inbox: Inbox) -> None:
        real(inbox)
        if not calls and (moment == "accept" or not inbox.deliveries):
            calls.append(put(folder, files))  # while the first one is in work, or once it is answered

    monkeypatch.setattr(Inbox, moment, and_again)
    assert watch(root, folder) == 0
    assert calls
    assert [path.name.split(".", 3)[3] for path in sorted((folder / "receipts").iterdir())] == ["1.json", "json"]
    assert statuses(folder) == ["duplicate"] * 2
    assert left(folder) == []
    assert Workspace(root).manifest().version == 3


# ------------------------------------------------------------------------------------------------------------- crashes


def _die(*_: Any) -> None:
    raise KeyboardInterrupt


def _die_after(real: Callable[..., Any]) -> Callable[..., Any]:
    def then_die(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    return then_die


POINTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before the receipt is archived": (Inbox, "_archive_receipt", _die),
    "after the receipt was archived": (Inbox, "_archive_receipt", _die_after(Inbox._archive_receipt)),
    "after the file was taken over": (module, "read_requests", _die),
    "after the commit": (Inbox, "settle", _die),
    "before the receipt": (Inbox, "_write_receipt", _die),
    "after the receipt": (Inbox, "_write_receipt", _die_after(Inbox._write_receipt)),
    "after the removal": (Inbox, "answer", _die_after(Inbox.answer)),
}


@pytest.mark.parametrize("point", POINTS)
def test_whatever_dies_it_is_erased_again_once_and_answered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    files = {FILE: [whole_user(BUSY), pair(ROWS[50]), whole_user(10_000)]}
    folder = put(tmp_path / "inbox", files)
    watch(root, folder)
    sign_up_again(root, BUSY)
    undisturbed, other = copy(root, tmp_path / "undisturbed"), Path(shutil.copytree(folder, tmp_path / "other"))
    for place in (folder, other):
        put(place, files)
    watch(undisturbed, other)
    with monkeypatch.context() as patch:
        patch.setattr(*POINTS[point])
        with pytest.raises(KeyboardInterrupt):
            watch(root, folder)
    assert watch(root, folder) == 0
    assert manifests_of(root) == manifests_of(undisturbed)
    assert statuses(folder) == ["applied", "duplicate", "not_found"]
    assert sorted(tree(folder)) == sorted(tree(other))
    assert not knows(root, BUSY)
    assert set(deliveries(root).values()) == {1}
    before = tree(tmp_path)
    assert watch(root, folder) == 0
    assert tree(tmp_path) == before


def test_a_rejected_file_that_a_crash_left_is_asked_about_once_more(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "inbox", {FILE: [whole_user(LONER), whole_user(BUSY)]})
    guard = {"max_batch": 1, "max_interactions": 5}
    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "_write_receipt", _die_after(Inbox._write_receipt))
        with pytest.raises(KeyboardInterrupt):
            watch(root, folder, **guard)
    manifest, answers = Workspace(root).manifest(), receipts(folder)
    assert (left(folder), statuses(folder)) == ([f"received/{FILE}"], ["applied", "rejected"])
    assert watch(root, folder, **guard) == 0
    assert (Workspace(root).manifest(), receipts(folder)) == (manifest, answers)
    assert left(folder) == [f"rejected/{FILE}"]
