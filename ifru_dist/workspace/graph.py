"""The incidence CSR: for every row its examples, with what the kernels need inline; one file per table.

A file holds one record batch per virtual partition; its edges are sorted by row, then by example id. An edge holds the
example's rows of all other tables. A second file holds the number of examples of each row, from which the row pointers
follow.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.interactions import Interactions
from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_batches
from ifru_dist.workspace.layout import Layout

DEGREES = pa.schema([("degree", pa.int32())])


def write_graph(
    root: Path | Staging, layout: Layout, examples: Interactions
) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...]]:
    """Write the edge and degree files of all tables; examples come by id: the position, where they have none."""
    schema = edge_schema(layout)
    edges, degrees = [], []
    for table, name in enumerate(layout.tables):
        batches = _partition_batches(layout, table, examples, schema)
        degree = np.bincount(examples.rows[:, table] - layout.offsets[table], minlength=layout.sizes[table])
        ordered = degree[layout.stored_order(table)].astype(np.int32)
        edges.append(write_batches(root, f"graph/{name}", schema, batches))
        degrees.append(write_batches(root, f"graph/{name}-degree", DEGREES, _split(layout, table, DEGREES, [ordered])))
    return tuple(edges), tuple(degrees)


def edge_schema(layout: Layout) -> pa.Schema:
    """Columns of an edge file: rows at the other ends (``other``, or ``other0``, ``other1`` ...), label, example."""
    n_others = len(layout.tables) - 1
    names = ["other"] if n_others == 1 else [f"other{index}" for index in range(n_others)]
    return pa.schema([*((name, pa.int32()) for name in names), ("label", pa.int8()), ("example", pa.int64())])


def partition_edges(root: Path, layout: Layout, graph: Sequence[FileEntry]) -> NDArray[np.int64]:
    """Edges in each partition, all tables together, (partitions,)."""
    files = [open_arrow(root, entry) for entry in graph]
    return np.array([sum(f.get_batch(p).num_rows for f in files) for p in range(layout.partitions)], dtype=np.int64)


def _partition_batches(
    layout: Layout, table: int, examples: Interactions, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """One record batch of sorted edges per partition."""
    row = examples.rows[:, table] - layout.offsets[table]
    order = np.lexsort((row, row % layout.partitions))  # stable: by example id within a row
    others = [
        (examples.rows[order, other_table] - layout.offsets[other_table]).astype(np.int32)
        for other_table in layout.other_tables(table)
    ]
    ids = order if examples.ids is None else examples.ids[order]
    columns = [*others, examples.labels[order].astype(np.int8), ids.astype(np.int64)]
    counts = np.bincount(row % layout.partitions, minlength=layout.partitions)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    for start, stop in pairwise(bounds):
        yield pa.RecordBatch.from_arrays([pa.array(column[start:stop]) for column in columns], schema=schema)


def _split(layout: Layout, table: int, schema: pa.Schema, columns: list[NDArray[np.int32]]) -> Iterator[pa.RecordBatch]:
    """Columns in stored order, cut into one record batch per partition."""
    bounds = layout.bounds(table)
    for start, stop in pairwise(bounds):
        yield pa.RecordBatch.from_arrays([pa.array(column[start:stop]) for column in columns], schema=schema)
