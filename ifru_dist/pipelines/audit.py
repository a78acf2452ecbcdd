"""jobs/audit.py: is a workspace what was written, and what was done for a request, a user, an item or a pair?"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import WorkspaceError
from ifru_dist.evaluation.report import check_output, markdown_table, unused_folder, write_report
from ifru_dist.pipelines.progress import say
from ifru_dist.workspace.history import find_events, wanted_digests
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.suppression import Release, read_releases, read_suppressed
from ifru_dist.workspace.verification import Verification, verify_workspace

UNLISTED_SHOWN = 20
"""Files that the summary names at most; the report names them all."""
_SHOWN = ("received", "finished", "version", "scope", "status", "interactions", "reason")


_ASKED = ("requests", "erased", "suppressed", "releases")
"""What the report tells of what is asked for; null where nothing is."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Check every file of a workspace, and show what was done for a request, a user, an item or a pair of both."""

    workspace: Path
    """Folder of the workspace; it is only read, without its lock: run this while no job writes."""
    request_id: str | None = None
    """Show what became of the requests with this id."""
    user: Annotated[str | None, Field(min_length=1)] = None
    """Show what became of requests for this user wholly; with --item for the pair, too."""
    item: Annotated[str | None, Field(min_length=1)] = None
    """Show what became of requests for this item wholly; with --user for the pair, too."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/audit-VERSION, or with -2, -3... behind it for further ones."""

    @property
    def asks(self) -> bool:
        """Whether anything is to be shown of the ledger."""
        return (self.request_id, self.user, self.item) != (None, None, None)


def audit(config: AuditConfig) -> int:
    """Run the job.

    Returns:
        0, or the exit status of damaged workspaces when a file is damaged, missing or not the one it should be.

    Raises:
        WorkspaceError: there is no workspace, no manifest can be read, or the key that --user and --item need is
            missing.
    """
    start = time.perf_counter()
    config = validated(config)
    workspace = Workspace(config.workspace)
    newest = workspace.versions()[-1:]
    default = workspace.root / "reports"
    check_output(config.output, default if newest else None)
    say(f"checking every file of {workspace.root}")
    found = verify_workspace(workspace, config.key_file or workspace.default_key_file)
    report = {
        "job": "audit",
        "version": newest[0],
        "clean": not found.damages,
        "damaged": [asdict(damage) for damage in found.damages],
        "unlisted": found.unlisted,
        "newest_manifest_sha256": found.digest,
        "versions_kept": [found.newest.retained_from, newest[0]],
        "files_checked": found.files,
        "bytes_checked": found.size_bytes,
        **(_history(config, workspace, found) if config.asks else dict.fromkeys(_ASKED)),
        "seconds": {"total": time.perf_counter() - start},
        "config": {**as_dict(config), "user": _given(config.user), "item": _given(config.item)},
    }
    folder = config.output or unused_folder(default / f"audit-{newest[0]:06d}")
    summary = audit_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return WorkspaceError.exit_code if found.damages else 0


def audit_summary(report: dict[str, Any]) -> str:
    """The report in words."""
    kept, damaged, unlisted = report["versions_kept"], report["damaged"], report["unlisted"]
    lines = [
        f"version {report['version']}: {report['files_checked']} files with {report['bytes_checked']:,} bytes of "
        f"versions {kept[0]} to {kept[1]}, and the chain of {report['version']} manifests: "
        + (f"{len(damaged)} damaged" if damaged else "clean"),
        f"newest manifest: SHA-256 {report['newest_manifest_sha256']}",
        *(f"damaged: {damage['problem']}" for damage in damaged),
        *(f"note: {name} is of no kept version, and never read" for name in unlisted[:UNLISTED_SHOWN]),
    ]
    if len(unlisted) > UNLISTED_SHOWN:
        lines.append(f"note: and {len(unlisted) - UNLISTED_SHOWN} more such files")
    if report["requests"] is not None:
        erased, held = (
            {True: "yes", False: "no", None: "not asked"}[report[name]] for name in ("erased", "suppressed")
        )
        lines += ["", _requests_in_words(report["requests"]), f"on the list of all that was erased: {erased}"]
        lines += [f"kept from coming back: {held}"]
        lines += [f"released in version {entry['version']}: {entry['reason']}" for entry in report["releases"] or []]
        if not report["ledger_complete"]:
            lines.append("beware: files of the ledger are damaged, and what stands in them is not shown")
    return "\n".join(lines)


def _history(config: AuditConfig, workspace: Workspace, found: Verification) -> dict[str, Any]:
    """What the ledger tells of what is asked for, and whether it is on the list of all that was erased."""
    newest, digests, erased, suppressed, releases = found.newest, None, None, None, None
    suppression = list(filter(found.is_whole, newest.suppression))
    released = list(filter(found.is_whole, newest.released))
    if config.user is not None or config.item is not None:
        key = load_key(config.key_file or workspace.default_key_file, newest.key_fingerprint)
        digests = wanted_digests(key, config.user, config.item)
        erased = not digests.isdisjoint(read_suppressed(workspace.root, suppression))
        suppressed = not digests.isdisjoint(read_suppressed(workspace.root, suppression, released))
        releases = [entry for entry in read_releases(workspace.root, released) if entry.digest in digests]
    files = list(filter(found.is_whole, newest.requests))
    events = find_events(workspace.root, files, request_id=config.request_id, digests=digests)
    return {
        "requests": [{**asdict(event), **_version_of(found, event.version)} for event in events],
        "erased": erased,
        "suppressed": suppressed,
        "releases": releases and [_release_in_words(found, entry) for entry in releases],
        "ledger_complete": len(files) + len(suppression) + len(released)
        == len(newest.requests) + len(newest.suppression) + len(newest.released),
    }


def _release_in_words(found: Verification, entry: Release) -> dict[str, Any]:
    """A release, and when it was made."""
    manifest = found.manifests.get(entry.version)
    return {"version": entry.version, "reason": entry.reason, "version_created": manifest and manifest.created}


def _version_of(found: Verification, version: int) -> dict[str, Any]:
    """When a version was made, by what, and what it counted; nulls where its manifest cannot be read."""
    manifest = found.manifests.get(version)
    return {
        "version_kind": manifest and manifest.kind,
        "version_created": manifest and manifest.created,
        "version_summary": manifest and manifest.extra,
    }


def _requests_in_words(requests: Sequence[dict[str, Any]]) -> str:
    """What became of the requests, as a table; it names nobody."""
    if not requests:
        return "no request of the ledger matches"
    rows = [{**row, "finished": row["finished"] or row["version_created"]} for row in requests]
    return markdown_table([{name: row[name] for name in _SHOWN} for row in rows])


def _given(identifier: str | None) -> str | None:
    """In place of an id, that there was one."""
    return None if identifier is None else "given, not kept"
