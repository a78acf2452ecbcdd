"""Auditing: whatever is not as it was is named, all of it; and what was done when, without an id in the clear."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.pipelines.audit import AuditConfig, audit
from ifru_dist.pipelines.command import run_command
from ifru_dist.workspace.commits import commit_vacuum
from ifru_dist.workspace.compaction import compacted
from ifru_dist.workspace.keys import fingerprint, load_key
from ifru_dist.workspace.manifest import Manifest, encode
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.vacuum import delete_files, retained_files, unlisted_files
from ifru_dist.workspace.version import open_version
from tests.pipelines.batches import ROWS, copy, run
from tests.pipelines.small import (
    BUSY,
    LONER,
    RECEIVED,
    SIZES,
    one_torch_thread,
    pair,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.workspaces import item_id, user_id

ITEM = int(ROWS[7, 1]) - SIZES[0]
BATCHES = (
    [whole_user(LONER) | {"request_id": "ticket-1"}, pair(ROWS[0]) | {"request_id": "ticket-2"}],
    [whole_item(ITEM) | {"request_id": "ticket-3"}, whole_user(LONER) | {"request_id": "ticket-4"}],
    [pair(ROWS[50]) | {"request_id": "ticket-2"}],
)


def _rewrite(workspace: Workspace, number: int, **changes: Any) -> Manifest:
    """Write a manifest anew with changes, its own digest right."""
    manifest = replace(workspace.manifest(number), **changes)
    workspace.manifest_path(number).write_bytes(encode(manifest))
    return manifest


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a file of every kind after several batches."""
    root = tmp_path_factory.mktemp("audit") / "ws"
    workspace = small_workspace(root, name="neumf", dim=2, hidden=(3,)).workspace
    known = fingerprint(load_key(workspace.default_key_file))
    _rewrite(workspace, 1, key_fingerprint=known)
    _rewrite(workspace, 2, key_fingerprint=known, parent=workspace.digest(1))
    with one_torch_thread():
        for batch in BATCHES:
            run(root, *batch)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy of it with its key."""
    return copy(original, tmp_path / "ws")


def _audit(root: Path, status: int, **options: Any) -> dict[str, Any]:
    """Audit with the report beside the workspace; returns the report."""
    folder = root.with_name("report")
    assert audit(AuditConfig(workspace=root, output=folder, **options)) == status
    return json.loads((folder / "report.json").read_text())


def _named(root: Path) -> list[str]:
    """The files that the audit of a damaged workspace names."""
    return [damage["file"] for damage in _audit(root, WorkspaceError.exit_code)["damaged"]]


def _listed(root: Path) -> list[str]:
    """Every file that any version lists."""
    workspace = Workspace(root)
    manifests = map(workspace.manifest, workspace.versions())
    return sorted({entry.path for manifest in manifests for entry in manifest.files()})


def _flip(path: Path) -> bytes:
    """Change a byte in the middle of a file; returns what it was."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    path.write_bytes(changed)
    return content


def test_a_workspace_after_several_batches_is_clean_and_only_read(root: Path, capsys: pytest.CaptureFixture) -> None:
    before = tree(root)
    report = _audit(root, 0)
    assert tree(root) == before
    workspace = Workspace(root)
    assert (report["clean"], report["damaged"], report["unlisted"], report["version"]) == (True, [], [], 5)
    assert report["files_checked"] == len(_listed(root))
    assert report["bytes_checked"] == sum((root / name).stat().st_size for name in _listed(root))
    assert report["newest_manifest_sha256"] == workspace.digest(5)
    assert (report["requests"], report["erased"], report["versions_kept"]) == (None, None, [1, 5])
    shown = capsys.readouterr().out
    assert "and the chain of 5 manifests: clean" in shown
    assert workspace.digest(5) in shown


def test_the_files_of_the_test_are_of_every_kind(root: Path) -> None:
    folders_and_stems = {name.rsplit("-", 1)[0] for name in _listed(root)}
    assert folders_and_stems == {
        *("ids/user", "ids/item", "ids/forgotten", "split/valid", "split/test", "split/erased"),
        *("examples/examples", "examples/erased", "graph/user", "graph/item", "graph/user-degree", "graph/item-degree"),
        *("tables/user", "tables/item", "tables/delta", "tables/dense", "requests/batch", "suppression/erased"),
    }


def test_the_report_goes_into_the_workspace_unless_said_otherwise(root: Path) -> None:
    assert audit(AuditConfig(workspace=root)) == 0
    assert json.loads((root / "reports" / "audit-000005" / "report.json").read_text())["clean"]


def test_a_further_audit_of_a_version_leaves_the_report_of_the_one_before(root: Path) -> None:
    for options in ({"request_id": "first"}, {"request_id": "second"}):
        assert audit(AuditConfig(workspace=root, **options)) == 0
    asked = {
        name: json.loads((root / "reports" / name / "report.json").read_text())["config"]["request_id"]
        for name in ("audit-000005", "audit-000005-2")
    }
    assert asked == {"audit-000005": "first", "audit-000005-2": "second"}
    assert _audit(root, 0)["unlisted"] == []


def test_a_changed_byte_in_any_file_is_found(root: Path) -> None:
    for name in _listed(root):
        content = _flip(root / name)
        assert _named(root) == [name]
        (root / name).write_bytes(content)
    _audit(root, 0)


def test_any_file_that_is_gone_or_cut_off_or_elsewhere_is_found(root: Path) -> None:
    for name in _listed(root):
        path = root / name
        path.rename(root.with_name("aside"))
        assert _named(root) == [name]
        path.symlink_to(root.with_name("aside"))
        assert _named(root) == [name]
        path.unlink()
        path.write_bytes(root.with_name("aside").read_bytes()[:-1])
        assert _named(root) == [name]
        root.with_name("aside").rename(path)
    _audit(root, 0)


def test_all_that_is_wrong_is_named(root: Path, capsys: pytest.CaptureFixture) -> None:
    names = _listed(root)
    flipped, gone = names[::4], names[1::4]
    for name in flipped:
        _flip(root / name)
    for name in gone:
        (root / name).unlink()
    _flip(Workspace(root).manifest_path(2))
    expected = sorted(["versions/000002.json", *flipped, *gone])
    assert sorted(_named(root)) == expected
    shown = capsys.readouterr().out
    assert all(name in shown for name in expected)


@pytest.mark.parametrize("number", range(1, 6))
def test_a_changed_byte_in_a_manifest_is_found(root: Path, number: int) -> None:
    _flip(Workspace(root).manifest_path(number))
    assert _named(root) == [f"versions/{number:06d}.json"]


@pytest.mark.parametrize(("number", "older"), [(3, 2), (5, 4), (4, 1)])
def test_a_manifest_replaced_by_an_older_one_is_found(root: Path, number: int, older: int) -> None:
    workspace = Workspace(root)
    shutil.copy(workspace.manifest_path(older), workspace.manifest_path(number))
    assert _named(root) == [f"versions/{number:06d}.json"]


@pytest.mark.parametrize("number", range(1, 5))
def test_a_manifest_rewritten_with_a_digest_of_its_own_breaks_the_chain(root: Path, number: int) -> None:
    workspace = Workspace(root)
    _rewrite(workspace, number, extra={"interactions_erased": 0})
    assert workspace.manifest(number).extra == {"interactions_erased": 0}
    report = _audit(root, WorkspaceError.exit_code)
    assert [damage["file"] for damage in report["damaged"]] == [f"versions/{number:06d}.json"]
    assert f"is not what version {number + 1} was made from" in report["damaged"][0]["problem"]


def test_the_newest_manifest_is_known_by_the_digest_that_an_earlier_audit_told(root: Path) -> None:
    before = _audit(root, 0)["newest_manifest_sha256"]
    _rewrite(Workspace(root), 5, extra={})
    assert _audit(root, 0)["newest_manifest_sha256"] != before


def test_a_manifest_that_does_not_fit_its_files_is_found_though_all_digests_are_right(root: Path) -> None:
    _rewrite(Workspace(root), 5, n_examples=1000)
    assert _named(root) == ["versions/000005.json"]


@pytest.mark.parametrize(("gone", "named"), [([1], [1]), ([3], [3]), ([2, 3, 4], [2])])
def test_missing_manifests_are_found(root: Path, gone: list[int], named: list[int]) -> None:
    for number in gone:
        Workspace(root).manifest_path(number).unlink()
    report = _audit(root, WorkspaceError.exit_code)
    assert [damage["file"] for damage in report["damaged"]] == [f"versions/{number:06d}.json" for number in named]
    assert all(f"{number:06d}" in report["damaged"][0]["problem"] for number in (gone[0], gone[-1]))


def test_a_version_far_beyond_the_others_is_no_work(root: Path) -> None:
    shutil.copy(Workspace(root).manifest_path(5), root / "versions" / "999999999999999.json")
    assert _named(root) == ["versions/000006.json", "versions/999999999999999.json"]


@pytest.mark.parametrize("stem", ["ids/", "graph/user", "tables/delta", "requests/batch"])
def test_two_files_that_changed_places_are_found(root: Path, stem: str) -> None:
    first, second, *_ = (name for name in _listed(root) if name.startswith(stem) and "forgotten" not in name)
    contents = [(root / name).read_bytes() for name in (first, second)]
    for name, content in zip((second, first), contents, strict=True):
        (root / name).write_bytes(content)
    assert sorted(_named(root)) == [first, second]


def test_what_no_version_lists_is_a_note(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "tables" / "delta-0123456789abcdef.arrow").write_bytes(b"x")
    (root / "versions" / ".writing-1-ab").write_bytes(b"x")
    (root / "reports" / "mine").mkdir(parents=True)
    (root / "reports" / "mine" / "notes.txt").write_bytes(b"x")
    expected = ["tables/delta-0123456789abcdef.arrow", "versions/.writing-1-ab"]
    assert _audit(root, 0)["unlisted"] == expected
    assert all(f"note: {name} is of no kept version" in capsys.readouterr().out for name in expected[:1])


def test_a_key_that_is_gone_or_another_is_named(root: Path) -> None:
    key = Workspace(root).default_key_file
    right = key.read_text()
    key.unlink()
    assert _named(root) == [str(key)]
    key.write_text("00" * 32)
    assert _named(root) == [str(key)]
    key.write_text("no key")
    assert _named(root) == [str(key)]
    root.with_name("other.key").write_text(right)
    _audit(root, 0, key_file=root.with_name("other.key"))


def test_versions_that_were_vacuumed_are_not_missed_but_their_manifests_are(root: Path) -> None:
    workspace = Workspace(root)
    version = open_version(workspace)
    with workspace.lock("vacuum"):
        commit_vacuum(version, compacted(version), 6)
        delete_files(unlisted_files(workspace, retained_files(workspace, 6)))
    report = _audit(root, 0, request_id="ticket-1")
    assert report["versions_kept"] == [6, 6]
    assert report["files_checked"] == len(workspace.manifest(6).files())
    assert [request["version"] for request in report["requests"]] == [3]
    _rewrite(workspace, 4, extra={})
    assert _named(root) == ["versions/000004.json"]
    kept = workspace.manifest(6).examples.path
    _flip(root / kept)
    assert _named(root) == ["versions/000004.json", kept]


def test_a_workspace_that_a_job_holds_is_audited(root: Path) -> None:
    with Workspace(root).lock("unlearn"):
        _audit(root, 0)


def test_a_folder_without_a_workspace_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="holds no workspace"):
        audit(AuditConfig(workspace=tmp_path / "ws"))
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_without_a_manifest_that_can_be_read_is_refused(root: Path) -> None:
    for path in (root / "versions").iterdir():
        path.write_text("{}")
    with pytest.raises(WorkspaceError, match=r"no manifest that can be read \(versions/000001.json is damaged"):
        audit(AuditConfig(workspace=root))


def test_the_exit_status_tells_of_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _flip(root / _listed(root)[0])
    monkeypatch.setattr(sys, "argv", ["audit.py", "--workspace", str(root)])
    with pytest.raises(SystemExit) as caught:
        run_command(AuditConfig, audit)
    assert caught.value.code == 4


# -------------------------------------------------------------------------------------------------------------- history


def _told(root: Path, **options: Any) -> list[tuple[Any, ...]]:
    """Request id, status, version and number of interactions of each request that is shown."""
    requests = _audit(root, 0, **options)["requests"]
    return [(row["request_id"], row["scope"], row["status"], row["version"]) for row in requests]


def test_what_was_done_for_a_request_is_shown(root: Path, capsys: pytest.CaptureFixture) -> None:
    report = _audit(root, 0, request_id="ticket-2")
    manifest = Workspace(root).manifest(3)
    first, second = report["requests"]
    assert (first["version"], second["version"], first["status"], first["interactions"]) == (3, 5, "applied", 2)
    assert first["received"] == "2023-11-14T22:13:20+00:00"  # RECEIVED
    assert RECEIVED == 1_700_000_000
    assert (first["version_created"], first["version_kind"]) == (manifest.created, "unlearn")
    assert first["version_summary"] == manifest.extra
    assert manifest.extra["interactions_erased"] == 3
    assert report["ledger_complete"]
    assert "| 2023-11-14T22:13:20+00:00 |" in capsys.readouterr().out


def test_users_items_and_pairs_are_found_by_their_keyed_digests(root: Path) -> None:
    loner, item = str(user_id(LONER)), item_id(ITEM)
    assert _told(root, user=loner) == [
        ("ticket-1", "user", "applied", 3),
        ("ticket-4", "user", "duplicate", 4),
    ]
    assert _told(root, item=item) == [("ticket-3", "item", "applied", 4)]
    named = pair(ROWS[0])
    both = {"user": named["user"], "item": named["item"]}
    assert _told(root, **both) == [("ticket-2", "interaction", "applied", 3)]
    assert _told(root, **both, request_id="ticket-9") == []
    # A pair was erased with its user, too.
    assert _told(root, user=loner, item=item_id(3)) == _told(root, user=loner)


def test_whether_something_was_erased_is_told(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert _audit(root, 0, user=str(user_id(LONER)))["erased"] is True
    assert "on the list of all that was erased: yes" in capsys.readouterr().out
    assert _audit(root, 0, user=str(user_id(BUSY)))["erased"] is False
    assert _audit(root, 0, request_id="ticket-1")["erased"] is None


def test_ids_are_not_told_back(root: Path, capsys: pytest.CaptureFixture) -> None:
    user, item = "a-user-whose-id-is-long", item_id(ITEM)
    _audit(root, 0, user=user, item=item)
    folder = root.with_name("report")
    shown = capsys.readouterr().out + "".join(path.read_text() for path in folder.iterdir())
    assert user not in shown
    assert item not in shown
    assert "given, not kept" in shown


def test_nothing_that_matches_is_said(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert _told(root, request_id="unknown") == []
    assert "no request of the ledger matches" in capsys.readouterr().out


def test_a_damaged_ledger_is_not_believed(root: Path, capsys: pytest.CaptureFixture) -> None:
    name = Workspace(root).manifest(3).requests[0].path
    _flip(root / name)
    report = _audit(root, WorkspaceError.exit_code, request_id="ticket-2")
    assert [row["version"] for row in report["requests"]] == [5]
    assert not report["ledger_complete"]
    assert "files of the ledger are damaged" in capsys.readouterr().out


def test_without_its_key_only_ids_of_requests_are_looked_up(root: Path) -> None:
    Workspace(root).default_key_file.unlink()
    assert _audit(root, WorkspaceError.exit_code, request_id="ticket-1")["requests"]
    with pytest.raises(WorkspaceError, match=r"key file .* is missing"):
        audit(AuditConfig(workspace=root, user="1"))
