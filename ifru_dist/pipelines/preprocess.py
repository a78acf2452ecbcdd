"""Logs become the first version of a workspace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from ifru_dist.config import as_dict
from ifru_dist.errors import InputError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.ingest.identifiers import written_as_floats
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import Preparation, preparing
from ifru_dist.ingest.spooled import Spooled
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.scheduling import SchedulerName, dask_scheduler, spill_folder
from ifru_dist.pipelines.suppressing import key_and_list
from ifru_dist.workspace.dataset import commit_first, require_unused
from ifru_dist.workspace.keys import copy_key, create_key, fingerprint
from ifru_dist.workspace.layout import MAX_PARTITIONS
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.suppression import SuppressionList
from ifru_dist.workspace.version import open_version


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
    key_file, is_new = config.key_file or workspace.default_key_file, not workspace.root.exists()
    with workspace.lock("preprocess"), _nothing_left_of_a_refusal(workspace, key_file, is_new=is_new):
        require_unused(workspace)
        key, listed = _key_and_list(config, workspace)
        quarantine = config.quarantine or workspace.root / "quarantine" / "rows.parquet"
        with (
            dask_scheduler(config.scheduler) as scheduler,
            preparing(config, scheduler, quarantine, spill_folder(workspace, config.scratch), say, listed) as prepared,
        ):
            _check_spelling(config, prepared.spooled)
            writing = time.perf_counter()
            files = prepared.write(workspace.root, config.partitions)
        # The version is there when nothing else is: what was sorted on disk, with all ids in it, is gone.
        digests = () if listed is None else listed.digests
        version = commit_first(workspace, files, fingerprint(key), digests, prepared.counts).version
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


def _check_spelling(config: PreprocessConfig, found: Spooled) -> None:
    """Say that ids look like integers that pandas wrote as floats; refuse them where erasures were of integers.

    Raises:
        InputError: the workspace of --suppressed-by spells ids as 12 where the logs have 12.0, or the other way round.
    """
    old = None if config.suppressed_by is None else open_version(Workspace(config.suppressed_by))
    for table, name in enumerate(("user", "item")):
        ids, before = found.ids(table), None if old is None else old.ids(table)
        floats = written_as_floats(ids)
        if before is not None and _other_spelling(ids, before):
            there, here = ("12", "12.0") if floats else ("12.0", "12")
            raise InputError(
                f"ids of table {name} are as {here} in the logs, and as {there} in --suppressed-by "
                f"{config.suppressed_by}, so what was erased there would not be recognised: write them as there (in "
                "pandas: .astype('Int64') makes integers of floats)"
            )
        if floats:
            say(
                f"note: the ids of table {name} are texts such as 12.0, as pandas writes integers beside empty cells: "
                "they stay texts; should they be integers, write them so (in pandas: .astype('Int64'))"
            )


def _other_spelling(one: pa.Array, other: pa.Array) -> bool:
    """Whether one of two columns of ids holds integers, and the other such that were written as floats."""
    return any(
        pa.types.is_integer(first.type) and written_as_floats(second) for first, second in ((one, other), (other, one))
    )


@contextmanager
def _nothing_left_of_a_refusal(workspace: Workspace, key_file: Path, *, is_new: bool) -> Iterator[None]:
    """After an error take away the folder and the key that this job made, unless there is something to look at."""
    made_key = not key_file.exists()
    try:
        yield
    except BaseException:
        if is_new and [path.name for path in workspace.root.iterdir()] == ["lock"]:
            if made_key:
                key_file.unlink(missing_ok=True)
            (workspace.root / "lock").unlink()
            workspace.root.rmdir()
        raise


def _summary(prepared: Preparation, report: dict[str, Any]) -> str:
    """The counts as a table, in Markdown."""
    counts = prepared.counts
    lines = {
        "rows read": counts["rows_read"],
        **{f"  quarantined: {reason}": count for reason, count in counts["quarantined"].items()},
    }
    if counts["suppressed"] is not None:
        lines |= {f"  suppressed by {scope}": count for scope, count in counts["suppressed"].items()}
    if "duplicates" in counts:
        left = "rows after k-core" if report["config"]["k_core"] > 1 else "rows left"
        lines |= {"duplicates of a pair": counts["duplicates"], left: counts["rows_after_k_core"]}
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
