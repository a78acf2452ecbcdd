"""jobs/append.py: further interactions, users and items in a workspace; nothing comes back that was erased."""

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ifru_dist.config import as_dict, validated
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.ingest.options import LogOptions, PrepareOptions
from ifru_dist.ingest.preparing import Prepared, prepare
from ifru_dist.pipelines.joining import Joined, joined
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.scheduling import SchedulerName, dask_scheduler, spill_folder
from ifru_dist.pipelines.suppressing import key_and_list
from ifru_dist.workspace.appending import appended_data
from ifru_dist.workspace.commits import commit_append
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


@dataclass(frozen=True, kw_only=True)
class AppendConfig(LogOptions):
    """Append the interactions of logs to the training data; the model knows nothing of them until trained anew."""

    workspace: Path
    """Folder of the workspace."""
    key_file: Path | None = None
    """Key of the audit digests, where anything was erased; default: beside the workspace, its name with .key."""
    output: Path | None = None
    """Folder of the report; by default WORKSPACE/reports/append-VERSION."""
    scheduler: SchedulerName = "threads"
    """Where Dask reads the logs: in threads of this process, or on a Ray cluster that sees the same files."""


def append(config: AppendConfig) -> int:
    """Run the job: one new version, unless the logs hold nothing new, and a report.

    Raises:
        ConfigError: options contradict each other.
        InputError: the logs cannot be used, or their ids do not fit the workspace's.
        WorkspaceError: the workspace, or the key that its list of erasures needs, cannot be used.
    """
    start = time.perf_counter()
    config = validated(config)
    workspace = Workspace(config.workspace)
    _prepare_options(config, workspace.manifest().layout.tables).check()  # before the lock, which makes the folder
    check_output(config.output, workspace.root / "reports")
    with workspace.lock("append"):
        job = _AppendJob(config, open_version(workspace, check_content=True))
        report = job.run()
    report["seconds"]["total"] = round(time.perf_counter() - start, 3)
    did = report["version_after"] > report["version_before"]
    name = f"append-{report['version_after']:06d}" + ("" if did else "-nothing-to-do")
    folder, summary = config.output or workspace.root / "reports" / name, append_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0


def append_summary(report: dict[str, Any]) -> str:
    """The report in words."""
    suppressed, present = report["suppressed"] or {}, report["already_there"]
    left_out = ", ".join(f"{count} by {scope}" for scope, count in suppressed.items()) or "none"
    lines = [
        f"version {report['version_before']} -> {report['version_after']}, epoch {report['epoch']}: "
        f"{report['interactions_added']} training interactions appended",
        "new rows: " + ", ".join(f"{count} of table {table}" for table, count in report["rows_added"].items()),
        f"{report['rows_read']} rows read; left out as erased before: {left_out}; already there: "
        + ", ".join(f"{count} in {part}" for part, count in present.items()),
    ]
    if report["model_waits"]:
        lines.append("the model knows nothing of what was appended: run jobs/train.py, or import one")
    return "\n".join(lines)


def _prepare_options(config: AppendConfig, tables: tuple[str, ...]) -> PrepareOptions:
    """All usable rows as training rows, with the further fields that the workspace has."""
    given = {field.name: getattr(config, field.name) for field in fields(LogOptions)}
    return PrepareOptions(**given, fields=tables[2:], split=(1.0, 0.0, 0.0))


class _AppendJob:
    """One run against the current version."""

    def __init__(self, config: AppendConfig, version: Version) -> None:
        """Read what must not come back; the key is needed only where anything was erased."""
        self._config, self._version, self._workspace = config, version, version.workspace
        listed = version.manifest.suppression
        self._listed = key_and_list(self._workspace, config.key_file)[1] if listed else None

    def run(self) -> dict[str, Any]:
        """Read, join, write, commit; returns the report (docs/reports.md says what each key means)."""
        before = self._version.manifest.version
        quarantine = self._workspace.root / "quarantine" / f"append-{before + 1:06d}.parquet"
        prepared = self._prepare(quarantine)
        found = joined(self._version, prepared.dataset)
        started, after = time.perf_counter(), before
        if len(found.examples):
            say(f"appending {len(found.examples):,} interactions")
            data = appended_data(self._version, found.ids, found.examples)
            after = commit_append(self._version, data, self._summary(found)).version
        seconds = {**prepared.seconds, "write": time.perf_counter() - started}
        return {
            "job": "append",
            "version_before": before,
            "version_after": after,
            "epoch": self._workspace.manifest().epoch,
            **{name: prepared.counts[name] for name in ("rows_read", "quarantined", "suppressed", "duplicates")},
            "already_there": found.already_there,
            **self._summary(found),
            "model_waits": self._version.manifest.model is not None and after > before,
            "quarantine_file": str(quarantine),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "config": as_dict(self._config),
        }

    def _prepare(self, quarantine: Path) -> Prepared:
        """What the logs hold, without what was erased; nor does the quarantine file hold that."""
        options = _prepare_options(self._config, self._version.layout.tables)
        with dask_scheduler(self._config.scheduler) as scheduler:
            scratch = spill_folder(self._workspace, self._config.scratch)
            return prepare(options, scheduler, quarantine, say, self._listed, scratch)

    def _summary(self, found: Joined) -> dict[str, Any]:
        """What is appended, in numbers."""
        tables = self._version.layout.tables
        rows = {table: len(ids) for table, ids in zip(tables, found.ids, strict=True)}
        return {"interactions_added": len(found.examples), "rows_added": rows}
