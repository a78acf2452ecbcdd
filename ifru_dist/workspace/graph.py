"""The incidence CSR: for every row its examples, with what the kernels need inline; one file per table.

A file holds one record batch per virtual partition; its edges are sorted by row, then by example id. An edge holds the
example's rows of all other tables. A second file holds the number of examples of each row, from which the row pointers
follow.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.interactions import Interactions
from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_batches
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.ordering import stable_order

DEGREES = pa.schema([("degree", pa.int32())])


@dataclass(frozen=True)
class Edges:
    """Edges of a table in the order of their examples' ids. Rows are local to their tables."""

    row: NDArray[np.int32]
    """(edges,)."""
    others: list[NDArray[np.int32]]
    """Of each other table in their order, (edges,)."""
    label: NDArray[np.int8]
    """(edges,)."""
    example: NDArray[np.integer]
    """(edges,)."""


def write_graph(
    root: Path | Staging, layout: Layout, examples: Interactions
) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...]]:
    """Write the edge and degree files of all tables; examples come by id: the position, where they have none."""
    rows = [(examples.rows[:, table] - offset).astype(np.int32) for table, offset in enumerate(layout.offsets)]
    ids = np.arange(len(examples)) if examples.ids is None else examples.ids
    edges, degrees = [], []
    for table in range(len(layout.tables)):
        others = [rows[other] for other in layout.other_tables(table)]
        columns = Edges(rows[table], others, examples.labels.astype(np.int8), ids)
        edges.append(write_edges(root, layout, table, edge_batches(layout, columns, range(layout.partitions))))
        degree = np.bincount(rows[table], minlength=layout.sizes[table])
        degrees.append(write_degrees(root, layout, table, degree))
    return tuple(edges), tuple(degrees)


def write_edges(root: Path | Staging, layout: Layout, table: int, batches: Iterable[pa.RecordBatch]) -> FileEntry:
    """Write the edge file of a table from one record batch for each partition, in their order."""
    return write_batches(root, f"graph/{layout.tables[table]}", edge_schema(layout), batches)


def write_degrees(root: Path | Staging, layout: Layout, table: int, degree: NDArray[np.integer]) -> FileEntry:
    """Write the number of examples of each row (size,) of a table."""
    ordered = degree[layout.stored_order(table)].astype(np.int32)
    return write_batches(
        root, f"graph/{layout.tables[table]}-degree", DEGREES, _split(layout, table, DEGREES, [ordered])
    )


def edge_schema(layout: Layout) -> pa.Schema:
    """Columns of an edge file: rows at the other ends (``other``, or ``other0``, ``other1`` ...), label, example."""
    n_others = len(layout.tables) - 1
    names = ["other"] if n_others == 1 else [f"other{index}" for index in range(n_others)]
    return pa.schema([*((name, pa.int32()) for name in names), ("label", pa.int8()), ("example", pa.int64())])


def edge_batches(layout: Layout, edges: Edges, partitions: range) -> Iterator[pa.RecordBatch]:
    """One record batch of sorted edges for each of some consecutive partitions, from all edges of their rows."""
    per_partition = -(-int(edges.row.max(initial=0) + 1) // layout.partitions)
    place = (edges.row % layout.partitions - partitions.start).astype(np.int64) * per_partition
    place += edges.row // layout.partitions
    order, bounds = stable_order(place, len(partitions) * per_partition)
    unsorted: list[NDArray[Any]] = [*edges.others, edges.label, edges.example.astype(np.int64, copy=False)]
    columns = [column[order] for column in unsorted]
    for start, stop in pairwise(bounds[::per_partition]):
        yield pa.RecordBatch.from_arrays(
            [pa.array(column[start:stop]) for column in columns], schema=edge_schema(layout)
        )


def partition_edges(root: Path, layout: Layout, graph: Sequence[FileEntry]) -> NDArray[np.int64]:
    """Edges in each partition, all tables together, (partitions,)."""
    files = [open_arrow(root, entry) for entry in graph]
    return np.array([sum(f.get_batch(p).num_rows for f in files) for p in range(layout.partitions)], dtype=np.int64)


def _split(layout: Layout, table: int, schema: pa.Schema, columns: list[NDArray[np.int32]]) -> Iterator[pa.RecordBatch]:
    """Columns in stored order, cut into one record batch per partition."""
    bounds = layout.bounds(table)
    for start, stop in pairwise(bounds):
        yield pa.RecordBatch.from_arrays([pa.array(column[start:stop]) for column in columns], schema=schema)
