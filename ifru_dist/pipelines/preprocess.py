"""Logs become the first version of a workspace."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ifru_dist.config import as_dict
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import Prepared, prepare
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.scheduling import SchedulerName, dask_scheduler
from ifru_dist.pipelines.suppressing import key_and_list, scrub
from ifru_dist.workspace.dataset import require_unused, write_dataset
from ifru_dist.workspace.keys import copy_key, create_key, fingerprint
from ifru_dist.workspace.layout import MAX_PARTITIONS
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.suppression import SuppressionList


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(PrepareOptions):
    """Make a workspace of interaction logs."""

    workspace: Path
    """Folder of the workspace to make."""
    partitions: Annotated[int, Field(ge=1, le=MAX_PARTITIONS)] = 256
    """Virtual partitions; fixed from now on, and the most workers that unlearning can use."""
    quarantine: Path | None = None
    """Parquet file for the rows that cannot be used; by default WORKSPACE/quarantine/rows.parquet."""
    key_file: Path | None = None
    """Key of the audit digests, made where it is missing; by default WORKSPACE.key, beside the workspace. With
    --suppressed-by: that workspace's key, too; by default the one beside it, of which WORKSPACE.key is made a copy."""
    suppressed_by: Path | None = None
    """A workspace that such logs were used in before: rows that name what was erased from it are left out, and its list
    of that is carried over, to be applied from then on."""
    output: Path | None = None
    """Folder of the report; by default WORKSPACE/reports/preprocess-000001."""
    scheduler: SchedulerName = "threads"
    """Where Dask reads the logs: in threads of this process, or on a Ray cluster that sees the same files."""


def preprocess(config: PreprocessConfig) -> None:
    """Make the first version of a workspace and report on it.

    Raises:
        ConfigError: options contradict each other.
        InputError: the logs cannot be used.
        WorkspaceError: the folder holds a workspace already, or another job is using it.
    """
    config.check()
    check_output(config.output)
    start = time.perf_counter()
    workspace = Workspace(config.workspace)
    with workspace.lock("preprocess"):
        require_unused(workspace)
        key, listed = _key_and_list(config, workspace)
        quarantine = config.quarantine or workspace.root / "quarantine" / "rows.parquet"
        with dask_scheduler(config.scheduler) as scheduler:
            prepared = prepare(config, scheduler, quarantine, say, listed)
        dataset = replace(prepared.dataset, key_fingerprint=fingerprint(key))
        if listed is not None:
            prepared.counts["quarantine_scrubbed"] = scrub(quarantine, listed, dataset.ids)
            dataset = replace(dataset, suppressed=listed.digests)
        writing = time.perf_counter()
        version = write_dataset(workspace, dataset, config.partitions).version
        end = time.perf_counter()
    seconds = {**prepared.seconds, "write": end - writing, "total": end - start}
    report = {
        "job": "preprocess",
        "workspace": str(workspace.root),
        "version": version,
        **prepared.counts,
        "quarantine_file": str(quarantine),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "rows_per_second": round(prepared.counts["rows_read"] / seconds["total"]),
        "config": as_dict(config),
    }
    folder = config.output or workspace.root / "reports" / f"preprocess-{version:06d}"
    summary = _summary(prepared, report)
    write_report(folder, report, summary)
    say(summary)
    say(f"report: {folder}")


def _key_and_list(config: PreprocessConfig, workspace: Workspace) -> tuple[bytes, SuppressionList | None]:
    """The key of the new workspace, and what must not come back with the logs."""
    if config.suppressed_by is None:
        return create_key(config.key_file or workspace.default_key_file), None
    key, listed = key_and_list(Workspace(config.suppressed_by), config.key_file)
    if config.key_file is None:
        copy_key(workspace.default_key_file, key)
    return key, listed


def _summary(prepared: Prepared, report: dict[str, Any]) -> str:
    """The counts as a table, in Markdown."""
    counts = prepared.counts
    lines = {
        "rows read": counts["rows_read"],
        **{f"  quarantined: {reason}": count for reason, count in counts["quarantined"].items()},
    }
    if counts["suppressed"] is not None:
        lines |= {f"  suppressed by {scope}": count for scope, count in counts["suppressed"].items()}
    if "duplicates" in counts:
        lines |= {"duplicates of a pair": counts["duplicates"], "rows after k-core": counts["rows_after_k_core"]}
    lines |= {"users": counts["users"], "items": counts["items"]}
    lines |= {f"values of {name}": count for name, count in counts["fields"].items()}
    for name, title in (("train", "training rows"), ("valid", "validation rows"), ("test", "test rows")):
        lines[title] = counts[name]
    lines |= {f"  {name} rows dropped (unseen)": count for name, count in counts["dropped_unseen"].items()}
    cells = {title: f"{value:,}" for title, value in lines.items()}
    cells["positive training rows"] = f"{counts['positive_share']['train']:.1%}"
    cells["rows per second"] = f"{report['rows_per_second']:,}"
    table = [f"| {title:<32} | {cell:>14} |" for title, cell in cells.items()]
    header = [f"| {'version ' + str(report['version']):<32} | {'':>14} |", f"| {'-' * 32} | {'-' * 13}: |"]
    return "\n".join([*header, *table])
