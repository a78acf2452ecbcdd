"""jobs/release.py: what the suppression list says of one user, item or pair counts no more."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ifru_dist.errors import ConfigError, IfruError, InputError, WorkspaceError
from ifru_dist.pipelines.audit import AuditConfig, audit
from ifru_dist.pipelines.release import ReleaseConfig, release
from ifru_dist.pipelines.suppressing import key_and_list
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import read_ledger
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.suppression import SuppressionList
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import ROWS, report_of
from tests.pipelines.small import erase, one_torch_thread, pair, small_workspace, tree, whole_item, whole_user
from tests.workspaces import item_id, user_id

_ROOT = Path(__file__).resolve().parents[2]
REASON = "signed up again, ticket 7"
USER, ITEM, PAIR = 3, 4, pair(ROWS[60])


@pytest.fixture
def version(tmp_path: Path) -> Version:
    """A user, an item and a pair are erased."""
    small_workspace(tmp_path / "ws")
    with one_torch_thread():
        return erase(tmp_path / "ws", whole_user(USER), whole_item(ITEM), PAIR)


def listed(root: Path) -> SuppressionList:
    return key_and_list(Workspace(root), None)[1]


def run(root: Path, **changes: Any) -> Version:
    assert release(ReleaseConfig(**{"workspace": root, "reason": REASON} | changes)) == 0
    return open_version(Workspace(root), check_content=True)


def refuse(root: Path, error: type[IfruError], expected: str, **changes: Any) -> None:
    before = tree(root)
    with pytest.raises(error, match=expected):
        run(root, **changes)
    after = tree(root)
    assert {name: after[name] for name in after if name != "lock"} == {n: before[n] for n in before if n != "lock"}


def state(root: Path) -> tuple[bool, bool, bool]:
    """Whether the user, the item and the pair are suppressed."""
    now = listed(root)
    return (
        now.holds(str(user_id(USER)), None),
        now.holds(None, item_id(ITEM)),
        now.holds(PAIR["user"], PAIR["item"]),
    )


def test_exactly_what_is_named_is_released_and_nothing_else_changes(version: Version) -> None:
    root = version.workspace.root
    assert state(root) == (True, True, True)
    after = run(root, user=str(user_id(USER)))
    assert state(root) == (False, True, True)
    run(root, user=PAIR["user"], item=PAIR["item"])
    assert state(root) == (False, True, False)
    run(root, item=item_id(ITEM))
    assert state(root) == (False, False, False)
    old, new = version.manifest, after.manifest
    assert (new.kind, new.version) == ("release", old.version + 1)
    assert (new.model, new.examples, new.suppression, new.requests) == (
        old.model,
        old.examples,
        old.suppression,
        old.requests,
    )
    assert len(new.released) == 1
    assert after.ids(0).to_pylist()[USER] is None


def test_neither_report_nor_manifest_nor_output_names_the_user(
    version: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    root = version.workspace.root
    run(root, user=PAIR["user"], item=PAIR["item"])
    number = Workspace(root).manifest().version
    report = report_of(root, f"release-{number:06d}")
    assert (report["scope"], report["reason"]) == ("interaction", REASON)
    assert (report["version_before"], report["version_after"]) == (number - 1, number)
    texts = [json.dumps(report), capsys.readouterr().out, (root / "versions" / f"{number:06d}.json").read_text()]
    assert not any(f'"{name}"' in text for text in texts for name in (PAIR["user"], PAIR["item"]))
    (entry,) = Workspace(root).manifest().released
    assert PAIR["item"].encode() not in (root / entry.path).read_bytes()


def test_the_audit_shows_the_release(version: Version, capsys: pytest.CaptureFixture[str]) -> None:
    root, user = version.workspace.root, str(user_id(USER))
    number = run(root, user=user).manifest.version
    assert audit(AuditConfig(workspace=root, user=user)) == 0
    report = report_of(root, f"audit-{number:06d}")
    assert (report["erased"], report["suppressed"], report["ledger_complete"]) == (True, False, True)
    assert [(entry["version"], entry["reason"]) for entry in report["releases"]] == [(number, REASON)]
    assert f"released in version {number}: {REASON}" in capsys.readouterr().out
    assert audit(AuditConfig(workspace=root, item=item_id(ITEM))) == 0
    report = report_of(root, f"audit-{number:06d}-2")
    assert (report["erased"], report["suppressed"], report["releases"]) == (True, True, [])


def test_a_vacuum_keeps_the_list_and_what_was_released(version: Version) -> None:
    root = version.workspace.root
    run(root, user=str(user_id(USER)))
    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    assert state(root) == (False, True, True)


def test_what_is_not_on_the_list_is_refused(version: Version) -> None:
    root = version.workspace.root
    refuse(root, InputError, "not on the list", user=str(user_id(USER + 1)))
    refuse(root, InputError, "not on the list", user=str(user_id(USER)), item=item_id(0))
    run(root, user=str(user_id(USER)))
    refuse(root, InputError, "not on the list", user=str(user_id(USER)))


def test_options_that_say_nothing_are_refused(version: Version) -> None:
    root = version.workspace.root
    refuse(root, ConfigError, "neither is given")
    refuse(root, ConfigError, "empty", user="")
    refuse(root, ConfigError, "--reason is empty", user=str(user_id(USER)), reason=" ")
    root.with_name("ws.key").unlink()
    refuse(root, WorkspaceError, "key file", user=str(user_id(USER)))


def test_a_ledger_takes_the_release_into_account(version: Version) -> None:
    root, user = version.workspace.root, str(user_id(USER))
    key = key_and_list(version.workspace, None)[0]
    manifest = run(root, user=user).manifest
    ledger = read_ledger(root, manifest.requests, manifest.suppression, manifest.released)
    assert not ledger.was_erased(key, "user", user, None)
    assert ledger.was_erased(key, "item", None, item_id(ITEM))
    assert keyed_digest(key, "user", user, None) not in ledger.suppressed


@pytest.mark.slow
def test_the_command(version: Version) -> None:
    root = version.workspace.root
    command = [sys.executable, "jobs/release.py", "--workspace", str(root), "--user", str(user_id(USER))]
    done = subprocess.run([*command, "--reason", "again"], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "released from the list" in done.stdout
