"""What jobs/preprocess.py makes of Parquet logs, written in Polars: the rival of benchmarks.scale_ingest.

One row for each pair (the last by time), the k-core, numpy's permutation cut into parts, ids in order, examples and
edges sorted by partition, row and example, as Arrow files with their SHA-256. Bad values are dropped, not set apart;
nothing is suppressed, and there are no versions.

    python -m benchmarks.polars_ingest --logs logs --output out
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import tyro
from pydantic import Field

from ifru_dist.config import validated

_TABLES = ("user", "item")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Prepare logs with the columns user, item, rating and timestamp."""

    logs: Path
    """Folder of Parquet files, or one."""
    output: Path
    """Folder to write into."""
    positive_threshold: float = 5.0
    k_core: Annotated[int, Field(ge=1)] = 5
    seed: int = 1024
    partitions: int = 256
    engine: str = "streaming"
    """Polars' engine for the reading and for the sorting."""


def main(config: Config) -> None:
    """Prepare, write, and list the files."""
    config = validated(config)
    config.output.mkdir(parents=True, exist_ok=True)
    kept = core(last_of_pairs(config), config.k_core)
    order = np.random.RandomState(config.seed).permutation(len(kept))
    cuts = [int(round(len(kept) * share, 6)) for share in (0.6, 0.8)]
    parts = [kept[positions] for positions in np.split(order, cuts)]
    del kept, order
    tables = {name: parts[0].select(pl.col(name).unique().sort()).with_row_index(f"{name}_row") for name in _TABLES}
    valid, test = (with_rows(part, tables, "inner") for part in parts[1:])
    train = with_rows(parts[0], tables, "left").with_row_index("example").with_columns(pl.col("example").cast(pl.Int64))
    del parts
    files = {f"ids-{name}": tables[name].select(id=name) for name in _TABLES}
    files |= {name: part.select("user", "item", "label") for name, part in (("valid", valid), ("test", test))}
    listed = {name: write(config.output / f"{name}.arrow", frame) for name, frame in files.items()}
    del files, valid, test
    for name, frame in sorted_files(train, config):
        listed[name] = write(config.output / f"{name}.arrow", frame)
    (config.output / "files.json").write_text(json.dumps(listed, indent=1))


def last_of_pairs(config: Config) -> pl.DataFrame:
    """User, item and label of the last usable row of each pair, in the order of the logs."""
    places = str(config.logs / "*.parquet") if config.logs.is_dir() else str(config.logs)
    usable = (
        pl.scan_parquet(places)
        .with_row_index("row")
        .filter(
            pl.col("user").is_not_null(),
            pl.col("item").is_not_null(),
            pl.col("rating").cast(pl.Float64).is_finite(),
            pl.col("timestamp").is_not_null(),
        )
        .select("row", "user", "item", "timestamp", label=(pl.col("rating") > config.positive_threshold).cast(pl.Int8))
    )
    last = usable.sort("timestamp", maintain_order=True).unique(["user", "item"], keep="last", maintain_order=True)
    return last.sort("row").select(*_TABLES, "label").collect(engine=config.engine)  # type: ignore[call-overload]


def core(rows: pl.DataFrame, k: int) -> pl.DataFrame:
    """The k-core."""
    while k > 1:
        before = len(rows)
        for name in _TABLES:
            rare = rows.group_by(name).len().filter(pl.col("len") < k).select(name)
            if len(rare):
                rows = rows.join(rare, on=name, how="anti", maintain_order="left")
        if len(rows) == before:
            break
    return rows


def with_rows(part: pl.DataFrame, tables: dict[str, pl.DataFrame], how: str) -> pl.DataFrame:
    """Rows of the tables in place of ids."""
    for name, table in tables.items():
        part = part.join(table, on=name, how=how, maintain_order="left")  # type: ignore[arg-type]
    return part.select(*(pl.col(f"{name}_row").cast(pl.Int32).alias(name) for name in tables), "label")


def sorted_files(train: pl.DataFrame, config: Config):  # type: ignore[no-untyped-def]
    """The examples and the edges of both tables, with the degrees of rows, one after the other."""
    # One key and a stable sort: the rows come by example. Three keys take three times as long.
    partition = {name: pl.col(name) % config.partitions for name in _TABLES}
    stored = {name: partition[name] * 2**20 + pl.col(name) // config.partitions for name in _TABLES}
    by_user = train.sort(partition["user"], maintain_order=True)
    yield "examples", by_user.select("example", "user", "item", "label")
    del by_user
    for name, other in (_TABLES, _TABLES[::-1]):
        yield f"graph-{name}", train.sort(stored[name], maintain_order=True).select(other, "label", "example")
        degrees = train.group_by(name).len().sort(stored[name])
        yield f"degree-{name}", degrees.select(degree=pl.col("len").cast(pl.Int32))


def write(path: Path, frame: pl.DataFrame) -> str:
    """Write a frame durably; returns its SHA-256."""
    frame.write_ipc(path, compression="uncompressed")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main(tyro.cli(Config))
