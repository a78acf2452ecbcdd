"""Logs become the first version of a workspace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from ray.exceptions import RayError, RayTaskError
from ray.util.dask import ray_dask_get

from ifru_dist.config import as_dict
from ifru_dist.errors import GangError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import Prepared, prepare
from ifru_dist.ingest.reading import Scheduler
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.ray_session import first_line, ray_session
from ifru_dist.workspace.dataset import require_unused, write_dataset
from ifru_dist.workspace.keys import create_key, fingerprint
from ifru_dist.workspace.layout import MAX_PARTITIONS
from ifru_dist.workspace.store import Workspace


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
    """Key of the audit digests, made where it is missing; by default WORKSPACE.key, beside the workspace."""
    output: Path | None = None
    """Folder of the report; by default WORKSPACE/reports/preprocess-000001."""
    scheduler: Literal["threads", "ray"] = "threads"
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
        key = create_key(config.key_file or workspace.default_key_file)
        quarantine = config.quarantine or workspace.root / "quarantine" / "rows.parquet"
        with _scheduler(config.scheduler) as scheduler:
            prepared = prepare(config, scheduler, quarantine, say)
        writing = time.perf_counter()
        version = write_dataset(
            workspace, replace(prepared.dataset, key_fingerprint=fingerprint(key)), config.partitions
        ).version
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


def _summary(prepared: Prepared, report: dict[str, Any]) -> str:
    """The counts as a table, in Markdown."""
    counts = prepared.counts
    lines = {
        "rows read": counts["rows_read"],
        **{f"  quarantined: {reason}": count for reason, count in counts["quarantined"].items()},
    }
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


@contextmanager
def _scheduler(name: str) -> Iterator[Scheduler]:
    """Dask's scheduler by its option."""
    if name == "threads":
        yield name
    else:
        with ray_session(cpus=1):
            yield _on_ray


def _on_ray(*args: Any, **kwargs: Any) -> Any:
    """Run a Dask graph on Ray; an error comes out as the task raised it."""
    try:
        return ray_dask_get(*args, **kwargs)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise GangError(
            f"Ray failed while preprocessing ({first_line(error)}): look at the cluster, run it again"
        ) from error
