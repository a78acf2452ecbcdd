"""Embedding tables on disk: a base file per table in partition-major order, and deltas that hold only changed rows."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_batches
from ifru_dist.workspace.layout import Layout


def write_base(root: Path | Staging, layout: Layout, embeddings: NDArray[np.float32]) -> tuple[FileEntry, ...]:
    """Write all rows (N, dim), given in global order, as one base file per table."""
    entries = []
    for table, name in enumerate(layout.tables):
        values = embeddings[layout.table_range(table)][layout.stored_order(table)]
        schema = pa.schema([("embedding", pa.list_(pa.float32(), embeddings.shape[1]))])
        bounds = layout.bounds(table)
        batches = (
            pa.RecordBatch.from_arrays([_vectors(values[start:stop])], schema=schema)
            for start, stop in pairwise(bounds)
        )
        entries.append(write_batches(root, f"tables/{name}", schema, batches))
    return tuple(entries)


def write_delta(
    root: Path | Staging, layout: Layout, rows: NDArray[np.int64], values: NDArray[np.float32]
) -> FileEntry:
    """Write changed rows: global rows (n,), ascending, and their new embeddings (n, dim)."""
    schema = pa.schema(
        [("table", pa.int8()), ("row", pa.int64()), ("embedding", pa.list_(pa.float32(), values.shape[1]))]
    )
    tables = layout.table_of(rows).astype(np.int8)
    batch = pa.RecordBatch.from_arrays(
        [pa.array(tables), pa.array(layout.local(rows)), _vectors(values)], schema=schema
    )
    return write_batches(root, "tables/delta", schema, [batch])


def read_partitions(
    root: Path,
    layout: Layout,
    base: Sequence[FileEntry],
    deltas: Sequence[FileEntry],
    partitions: Sequence[int],
) -> NDArray[np.float32]:
    """Current embeddings (n, dim) of the rows of some partitions: by partition, then table, then row."""
    files = [open_arrow(root, entry) for entry in base]
    dim = files[0].schema.field(0).type.list_size
    blocks = [_matrix(files[t].get_batch(p).column(0)) for p in partitions for t in range(len(files))]
    values = np.concatenate([np.empty((0, dim), np.float32), *blocks])
    start_of = np.full(layout.partitions, -1, dtype=np.int64)
    sizes = [len(layout.partition_rows(partition)) for partition in partitions]
    start_of[list(partitions)] = np.cumsum([0, *sizes[:-1]]) if sizes else []
    for entry in deltas:
        rows, changed = read_delta(root, layout, entry)
        mine = start_of[layout.partition_of(rows)] >= 0
        values[_position(layout, start_of, rows[mine])] = changed[mine]
    return values


def read_delta(root: Path, layout: Layout, entry: FileEntry) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Global rows (n,) and embeddings (n, dim) of one delta file."""
    table = open_arrow(root, entry).read_all().combine_chunks()
    rows = layout.global_rows(table.column("table").to_numpy(), table.column("row").to_numpy())
    return rows, _matrix(table.column("embedding").combine_chunks())


def read_all(root: Path, layout: Layout, base: Sequence[FileEntry], deltas: Sequence[FileEntry]) -> NDArray[np.float32]:
    """Current embeddings (N, dim) of all rows in global order."""
    partitions = range(layout.partitions)
    stored = read_partitions(root, layout, base, deltas, partitions)
    embeddings = np.empty_like(stored)
    embeddings[np.concatenate([layout.partition_rows(p) for p in partitions])] = stored
    if len(stored) != layout.n_rows:
        raise WorkspaceError(f"tables of {root} hold {len(stored)} rows, not {layout.n_rows}: restore them")
    return embeddings


def _position(layout: Layout, start_of: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where global rows stand in the order of ``read_partitions``."""
    partition = layout.partition_of(rows)
    sizes = [[layout.partition_size(t, p) for p in range(layout.partitions)] for t in range(len(layout.tables))]
    before = np.cumsum([[0] * layout.partitions, *sizes[:-1]], axis=0)  # (tables, partitions)
    return start_of[partition] + before[layout.table_of(rows), partition] + layout.local(rows) // layout.partitions


def _vectors(values: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """A matrix (n, dim) as an Arrow column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _matrix(column: pa.FixedSizeListArray | pa.ChunkedArray) -> NDArray[np.float32]:
    """An Arrow column of fixed-size lists as a matrix (n, dim)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
