"""Logs for tests: writing them as files, and reading a dataset back as external ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ifru_dist.ingest.memory import Budget
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import Prepared, prepare, preparing
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.dataset import Dataset


def write_parquet(folder: Path, frames: Sequence[pd.DataFrame], row_group_size: int = 1000) -> Path:
    """Frames as part-0.parquet, part-1.parquet, ...; integer ids stay integers beside nulls."""
    folder.mkdir(parents=True, exist_ok=True)
    every = pd.concat(frames)
    for number, frame in enumerate(frames):
        table = pa.table({name: pa.array(frame[name].tolist(), _type(name, every)) for name in frame})
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=row_group_size)
    return folder


def write_csv(folder: Path, frames: Sequence[pd.DataFrame]) -> Path:
    """Frames as part-0.csv, part-1.csv, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        frame.to_csv(folder / f"part-{number}.csv", index=False)
    return folder


def prepared(
    logs: Path, tmp: Path, scheduler: str = "threads", budget: Budget | None = None, **options: Any
) -> Prepared:
    """Run the preparation quietly, perhaps with chunks and buckets of a given size."""
    chosen = PrepareOptions(logs=str(logs), **{"positive_threshold": 3.0, "max_bad_share": 1.0} | options)
    bad = tmp / "bad.parquet"
    if budget is None:
        return prepare(chosen, scheduler, bad, say=lambda line: None)
    with preparing(chosen, scheduler, bad, tmp / "scratch", lambda line: None, budget=budget) as found:
        return Prepared(found.spooled.in_memory(found.counts), found.counts, found.seconds)


def examples(dataset: Dataset, part: Interactions) -> list[tuple[Any, ...]]:
    """A part as (user id, item id, further ids, label)."""
    ids = [external for table in dataset.ids for external in table.to_pylist()]
    return [
        (*(ids[row] for row in rows), int(label)) for rows, label in zip(part.rows.tolist(), part.labels, strict=True)
    ]


def all_examples(dataset: Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """All parts as external ids."""
    return {name: examples(dataset, getattr(dataset, name)) for name in ("train", "valid", "test")}


def _type(name: str, frame: pd.DataFrame) -> pa.DataType:
    if name in ("rating", "timestamp"):
        return pa.float64()
    return pa.string() if any(isinstance(value, str) for value in frame[name]) else pa.int32()
