"""jobs/release.py: someone signs up again: what the suppression list says of them counts no more from now on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import ConfigError, InputError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.pipelines.suppressing import key_and_list
from ifru_dist.workspace.commits import commit_release
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import Scope
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """Release a user, an item, or a pair of both, from the list of all that was erased; nothing is brought back."""

    workspace: Path
    """Folder of the workspace."""
    user: str | None = None
    """The user who was erased wholly and may be added again; with --item: the pair."""
    item: str | None = None
    """The item that was erased wholly and may be added again; with --user: the pair."""
    reason: str
    """Why, for the log. It is kept in the clear: name nobody in it."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/release-VERSION."""

    @property
    def scope(self) -> Scope:
        """What is released."""
        return "user" if self.item is None else "item" if self.user is None else "interaction"


def release(config: ReleaseConfig) -> int:
    """Run the job: one new version, and a report.

    Raises:
        ConfigError: nothing is named, or no reason given.
        InputError: what is named is not on the list.
        WorkspaceError: the workspace, its key or its list cannot be read.
    """
    config = validated(config)
    _check(config)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, workspace.root / "reports")
    with workspace.lock("release"):
        version = open_version(workspace)
        key, listed = key_and_list(workspace, config.key_file)
        if not listed.holds(config.user, config.item):
            raise InputError(
                f"scope {config.scope}: what is named is not on the list of what was erased (or was released already), "
                "so there is nothing to release: check how it is written, and whether a user, an item or a pair was "
                "erased (jobs/audit.py)"
            )
        digest = keyed_digest(key, config.scope, config.user, config.item)
        number = commit_release(version, digest, config.scope, config.reason).version
    report = _report(config, number)
    folder = config.output or workspace.root / "reports" / f"release-{number:06d}"
    summary = (
        f"version {number - 1} -> {number}: released from the list of what was erased: one {config.scope} "
        f"({config.reason})"
    )
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0


def _check(config: ReleaseConfig) -> None:
    """Something is named, and a reason given."""
    if config.user is None and config.item is None:
        raise ConfigError("--user and --item: neither is given: name the user, the item, or both for a pair")
    if "" in (config.user, config.item):
        raise ConfigError("--user or --item is empty: leave the option out, or give an id")
    if not config.reason.strip():
        raise ConfigError("--reason is empty: say why this may come back; it is kept for the audit")


def _report(config: ReleaseConfig, number: int) -> dict[str, Any]:
    """The report; it names nobody."""
    named = {name: None if getattr(config, name) is None else "given, not kept" for name in ("user", "item")}
    return {
        "job": "release",
        "version_before": number - 1,
        "version_after": number,
        "scope": config.scope,
        "reason": config.reason,
        "config": as_dict(config) | named,
    }
