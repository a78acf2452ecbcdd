"""jobs/vacuum.py: forget for good: what was erased goes out of the files, and old versions with all they hold."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.ingest.scrubbing import scrub_quarantine
from ifru_dist.pipelines.progress import say
from ifru_dist.workspace.commits import commit_vacuum
from ifru_dist.workspace.compaction import compacted, holds_erased, superseded
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.suppression import SuppressionList, read_suppressed
from ifru_dist.workspace.vacuum import delete_files, retained_files, unlisted_files
from ifru_dist.workspace.version import Version, open_version


@dataclass(frozen=True, kw_only=True)
class VacuumConfig:
    """Delete what was erased from the files of a workspace, and the files of old versions."""

    workspace: Path
    """Folder of the workspace."""
    keep_versions: Annotated[int, Field(ge=1)]
    """The newest versions to keep, the one that this job makes included. Only 1 forgets for good: older versions hold
    what was erased after them."""
    dry_run: bool = False
    """Show what would go, and change nothing."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/vacuum-VERSION."""


def vacuum(config: VacuumConfig) -> int:
    """Run the job: at most one new version, deleted files, and a report. What was cut off is finished by the next run.

    Raises:
        IfruError: nothing was deleted.
    """
    started = time.perf_counter()
    config = validated(config)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, None if config.dry_run else workspace.root / "reports")
    with nullcontext() if config.dry_run else workspace.lock("vacuum"):
        version = open_version(workspace, check_content=True)
        report = _VacuumJob(config, version).run()
    report["seconds"] = {"total": time.perf_counter() - started}
    summary = vacuum_summary(report)
    print(summary)
    if not config.dry_run:
        folder = config.output or workspace.root / "reports" / _report_name(report)
        write_report(folder, report, summary)
        print(f"report: {folder}")
    return 0


def vacuum_summary(report: dict[str, Any]) -> str:
    """The report in words."""
    dry_run = report["config"]["dry_run"]
    last, kept = report["version_after"], report["versions_kept"]
    lines = ["dry run: nothing was changed; a run would do this:"] if dry_run else []
    lines.append(f"version {report['version_before']} -> {last}")
    lines.append("written anew without what was erased: " + (", ".join(report["compacted"]) or "nothing"))
    dropped = f"; {report['versions_dropped']} versions dropped" if report["versions_dropped"] else ""
    lines.append(f"versions kept: {kept[0]} to {kept[1]}{dropped}")
    lines.append(f"{report['files_deleted']} files deleted, {report['bytes_freed']:,} bytes freed")
    if report["quarantine"] is not None:
        rows, scrubbed = report["quarantine"]["rows"], report["quarantine"]["rows_scrubbed"]
        lines.append(f"quarantine: {scrubbed} of {rows} rows deleted, which named what was erased")
    if report["versions_holding_erased"]:
        named = ", ".join(map(str, report["versions_holding_erased"]))
        lines.append(
            f"beware: versions that are kept still hold what was erased: {named}; --keep-versions 1 forgets it"
        )
    return "\n".join(lines)


def _report_name(report: dict[str, Any]) -> str:
    """Folder of a report; one of a run that found nothing to do must not replace that of the one which did it."""
    scrubbed = report["quarantine"] is not None and report["quarantine"]["rows_scrubbed"]
    did = report["version_after"] > report["version_before"] or report["files_deleted"] or scrubbed
    return f"vacuum-{report['version_after']:06d}" + ("" if did else "-nothing-to-do")


class _VacuumJob:
    """One run over one workspace."""

    def __init__(self, config: VacuumConfig, version: Version) -> None:
        """See what is to be done; all that can be refused is refused here, before anything is changed."""
        self._config, self._version, self._workspace = config, version, version.workspace
        manifest, keep = version.manifest, config.keep_versions
        self._superseded = superseded(manifest)
        oldest = manifest.version - keep + 1
        self._commits = bool(self._superseded) or oldest > manifest.retained_from
        self._after = manifest.version + self._commits
        self._retained_from = max(manifest.retained_from, oldest + self._commits)
        quarantine = sorted((self._workspace.root / "quarantine").glob("*.parquet"))
        to_scrub = quarantine and manifest.suppression
        self._quarantine = _Quarantine(quarantine, version, config.key_file) if to_scrub else None

    def run(self) -> dict[str, Any]:
        """Scrub, compact, commit, delete; returns the report (docs/reports.md says what each key means)."""
        before, dry_run = self._version.manifest, self._config.dry_run
        scrubbed = self._quarantine and self._quarantine.scrub(dry_run=dry_run)  # first: it may not be readable
        rewritten: dict[str, Any] = {}
        if self._superseded:
            if not dry_run:
                say("writing anew what holds erased data")
            rewritten = compacted(self._version, keep=not dry_run)
        if self._commits and not dry_run:
            commit_vacuum(self._version, rewritten, self._retained_from)
        files, size_bytes = self._delete(replace(before, **rewritten))
        return {
            "job": "vacuum",
            "version_before": before.version,
            "version_after": self._after,
            "compacted": list(self._superseded),
            "versions_kept": [self._retained_from, self._after],
            "versions_dropped": self._retained_from - before.retained_from,
            "versions_holding_erased": self._holding_erased(),
            "files_deleted": files,
            "bytes_freed": size_bytes,
            "quarantine": scrubbed,
            "config": as_dict(self._config),
        }

    def _delete(self, last: Manifest) -> tuple[int, int]:
        """Delete what no version that is kept lists; a dry run only looks.

        Args:
            last: What the newest version lists, which after a dry run is not there.

        Returns:
            The number of files, and their size in bytes.
        """
        listed = [*retained_files(self._workspace, self._retained_from), *last.files()]
        files = unlisted_files(self._workspace, listed)
        size_bytes = sum(path.lstat().st_size for path in files)
        if not self._config.dry_run:
            delete_files(files)
        return len(files), size_bytes

    def _holding_erased(self) -> list[int]:
        """The versions before the last one that are kept and whose files still hold what was erased by then."""
        current = self._version.manifest
        kept = range(self._retained_from, min(self._after, current.version + 1))
        return [number for number in kept if holds_erased(self._workspace.manifest(number), current)]


class _Quarantine:
    """The quarantine files, and what was erased by the time of a version."""

    def __init__(self, paths: list[Path], version: Version, key_file: Path | None) -> None:
        manifest, workspace = version.manifest, version.workspace
        self._paths = paths
        key = load_key(key_file or workspace.default_key_file, manifest.key_fingerprint)
        # Also what was released since: these rows are of before.
        self._erased = SuppressionList(key, read_suppressed(workspace.root, manifest.suppression))
        users, items = (pa.types.is_integer(version.ids(table).type) for table in (0, 1))
        self._integer_ids = users, items

    def scrub(self, *, dry_run: bool) -> dict[str, int]:
        """Take the rows out that name what was erased; a dry run only counts them."""
        counts = [
            scrub_quarantine(path, self._erased.holds, self._integer_ids, dry_run=dry_run) for path in self._paths
        ]
        rows, gone = (sum(column) for column in zip(*counts, strict=True))
        return {"rows": rows, "rows_scrubbed": gone}
