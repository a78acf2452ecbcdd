"""Preparing logs at scale: seconds, processor time and peak memory of jobs/preprocess.py, and of the same in Polars.

Both run as processes of their own on the same logs (``python -m benchmarks.synthetic`` makes some), one after the
other; their examples, edges, ids and held-out pairs are then compared row by row. Memory is what all processes of a
program have resident together, looked at every 50 ms, file pages that they map included.

    python -m benchmarks.scale_ingest --logs logs-20m logs-100m --folder scratch --output benchmarks/results
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from pydantic import Field

from benchmarks.records import keep
from ifru_dist.config import validated
from ifru_dist.workspace.store import Workspace

CPU_OF_POLARS = 2.5
"""What the job may take at most, in processor time."""
_EVERY_S = 0.05
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the preparation of logs."""

    logs: tuple[Path, ...]
    """Folders of Parquet files with the columns user, item, rating and timestamp, whole rows only."""
    folder: Path
    """Where results are written, and deleted again."""
    k_core: Annotated[int, Field(ge=1)] = 5
    memory_limit: str | None = None
    """Handed to the job."""
    most_rows_of_polars: int = 50_000_000
    """Beyond this the same in Polars is left out: it holds all rows in memory."""
    output: Path | None = None
    """Where a dated file of the figures is kept."""


def main(config: Config) -> None:
    """Go through the logs, and keep the figures."""
    config = validated(config)
    results = [compared(config, logs) for logs in config.logs]
    if config.output is not None:
        keep(config.output, "scale_ingest", {"cores": os.cpu_count(), "logs": results})


def compared(config: Config, logs: Path) -> dict[str, Any]:
    """Run both on some logs, compare, and print."""
    rows = sum(pq.read_metadata(path).num_rows for path in logs.glob("*.parquet"))
    with_polars = rows <= config.most_rows_of_polars
    ours, theirs = config.folder / "ours", config.folder / "polars"
    for path in (ours, theirs):
        shutil.rmtree(path, ignore_errors=True)
    common = ["--logs", str(logs), "--positive-threshold", "5", "--k-core", str(config.k_core)]
    limit = [] if config.memory_limit is None else ["--memory-limit", config.memory_limit]
    programs = {"ifru-dist": ["jobs/preprocess.py", *common, *limit, "--workspace", str(ours)]}
    if with_polars:
        programs["polars"] = ["-m", "benchmarks.polars_ingest", *common, "--output", str(theirs)]
    figures = {name: measured([sys.executable, *arguments], rows) for name, arguments in programs.items()}
    report = json.loads((ours / "reports" / "preprocess-000001" / "report.json").read_text())
    results: dict[str, Any] = {
        "rows": rows,
        **{name: report[name] for name in ("users", "items", "rows_after_k_core", "train")},
        "k_core": config.k_core,
        "memory_limit": config.memory_limit,
        "seconds_of_phases": report["seconds"],
        **figures,
    }
    if with_polars:
        results["cpu_of_polars"] = figures["ifru-dist"]["cpu_s"] / figures["polars"]["cpu_s"]
        results["cpu_of_polars_allowed"] = CPU_OF_POLARS
        results["same_files"] = same_rows(ours, theirs)
    for name, value in results.items():
        print(f"{name}: {value}")
    for path in (ours, theirs):
        shutil.rmtree(path, ignore_errors=True)
    ours.with_name("ours.key").unlink()
    return results


def measured(command: list[str], rows: int) -> dict[str, float]:
    """Seconds, processor seconds, peak resident memory (MiB) and rows per second of a program and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL) as process:
        peak = PeakMemory(process.pid)
        status = process.wait()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "peak_mib": round(peak.stop() / 2**20),
        "rows_per_s": round(rows / wall),
    }


class PeakMemory:
    """The most memory that a process and all its descendants had resident at once."""

    def __init__(self, pid: int) -> None:
        """Begin to look."""
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes at most, until now."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        """Look again and again."""
        while not self._ended.wait(_EVERY_S):
            self._peak = max(self._peak, sum(map(_resident, _descendants(self._pid))))


def _descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _resident(pid: int) -> int:
    """Resident bytes of a process; 0 when it ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def same_rows(ours: Path, theirs: Path) -> bool:
    """Whether a workspace and what Polars wrote hold the same columns."""
    manifest = Workspace(ours).manifest()
    entries = {"examples": manifest.examples, "valid": manifest.valid, "test": manifest.test}
    for table, name in enumerate(("user", "item")):
        entries[f"graph-{name}"], entries[f"degree-{name}"] = manifest.graph[table], manifest.degrees[table]
        entries[f"ids-{name}"] = manifest.ids[table]
    return all(_same(ours / entry.path, theirs / f"{name}.arrow") for name, entry in entries.items())


def _same(one: Path, other: Path) -> bool:
    """Whether two Arrow files hold equal columns of integers in one order."""
    first, second = (pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in (one, other))
    return first.num_columns == second.num_columns and all(
        np.array_equal(first.column(index).to_numpy(), second.column(index).to_numpy())
        for index in range(first.num_columns)
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
