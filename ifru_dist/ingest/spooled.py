"""A data set on disk, between the preparation of logs and the files of a workspace."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.ingest.memory import Budget
from ifru_dist.ingest.placing import HeldOut, Placed, Tables, read_share, read_span, scatter_span, shares_of
from ifru_dist.ingest.running import Runner, Task
from ifru_dist.ingest.spilling import Run, read_rows, remove
from ifru_dist.ingest.splitting import Spans
from ifru_dist.ingest.vocabulary import read_ids
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.dataset import (
    DataFiles,
    Dataset,
    example_batches,
    example_schema,
    write_example_batches,
    write_held_out_columns,
    write_ids,
)
from ifru_dist.workspace.graph import edge_batches, edge_schema, write_degrees, write_edges
from ifru_dist.workspace.layout import HELD_OUT, Layout


@dataclass(frozen=True, kw_only=True)
class Spooled:
    """What logs gave, sorted into spans of places; a place of a training row is its example's id."""

    scratch: Path
    tables: Tables
    id_files: tuple[Path, ...]
    """Of each table its ids in row order."""
    degrees: tuple[NDArray[np.int64], ...]
    """Of each table the training rows of each of its rows."""
    runs: tuple[Run, ...]
    """Rows that are left, as codes, by spans."""
    spans: Spans
    held_out: dict[str, tuple[HeldOut, ...]]
    """Of the validation and the test part their spans."""

    @property
    def n_train(self) -> int:
        """Training rows."""
        return int(self.spans.edges[self.spans.parts[0].stop])

    def ids(self, table: int) -> pa.Array:
        """External ids of a table in row order, as a memory map."""
        return read_ids(self.id_files[table])

    def in_memory(self, extra: dict[str, Any]) -> Dataset:
        """All of it in memory, with counts for the manifest."""
        ids = tuple(pa.concat_arrays([self.ids(table)]) for table in range(len(self.id_files)))
        offsets = np.cumsum([0, *map(len, ids[:-1])])
        train = [read_span(self.runs, self.spans, span, self.tables) for span in self.spans.parts[0]]
        valid, test = (
            _joined([Placed(0, *self._held_out_rows(span)) for span in self.held_out[part]], offsets)
            for part in HELD_OUT
        )
        joined = _joined(train, offsets)
        return Dataset(ids=ids, tables=self.tables.names, train=joined, valid=valid, test=test, extra=extra)

    def write(self, root: Path, partitions: int, runner: Runner, budget: Budget) -> DataFiles:
        """Write the files of a workspace's data, once: what is on disk goes on the way."""
        layout = Layout(partitions=partitions, sizes=tuple(map(len, self.degrees)), tables=self.tables.names)
        n_tables = len(layout.tables)
        ids = tuple(write_ids(root, name, self.ids(table)) for table, name in enumerate(layout.tables))
        held_out = {part: self._write_held_out(root, part) for part in HELD_OUT}
        shares = [shares_of(_partition_edges(layout, degree), budget.bucket_rows) for degree in self.degrees]
        scattered = self._scattered(shares, runner)
        remove(self.runs)
        graph = []
        for table in range(n_tables):
            sorted_shares = self._sorted(layout, table, shares[table], [runs[table] for runs in scattered], runner)
            graph.append(write_edges(root, layout, table, sorted_shares))
            remove([runs[table] for runs in scattered])
        return DataFiles(
            layout=layout,
            ids=ids,
            examples=write_example_batches(root, layout, _batches(self._example_files(shares[0]))),
            n_examples=self.n_train,
            graph=tuple(graph),
            degrees=tuple(write_degrees(root, layout, table, self.degrees[table]) for table in range(n_tables)),
            **held_out,
        )

    def _scattered(self, shares: Sequence[NDArray[np.int32]], runner: Runner) -> list[list[Run]]:
        """The training rows of each span for each table, by the shares of its partitions."""
        tasks = [
            Task(
                partial(scatter_span, self.runs, self.spans, span, self.tables, shares, self.scratch / f"edges-{span}"),
                self.spans.bounds(span)[1] - self.spans.bounds(span)[0],
            )
            for span in self.spans.parts[0]
        ]
        return list(runner.run("rows of the tables", tasks))

    def _sorted(
        self, layout: Layout, table: int, shares: NDArray[np.int32], runs: Sequence[Run], runner: Runner
    ) -> Iterator[pa.RecordBatch]:
        """A record batch of sorted edges for each partition; with those of users also files of their examples."""
        name = layout.tables[table]
        examples = self._example_files(shares) if table == 0 else [None] * (int(shares[-1]) + 1)
        tasks = []
        for share, examples_file in enumerate(examples):
            found = np.flatnonzero(shares == share)
            partitions = range(int(found[0]), int(found[-1]) + 1)
            path = self.scratch / f"graph-{name}-{share}"
            n_rows = sum(run.rows_of(range(share, share + 1)).stop - run.bounds[share] for run in runs)
            call = partial(_sort_share, runs, layout, table, share, partitions, path, examples_file)
            tasks.append(Task(call, int(n_rows)))
        for path in runner.run(f"edges of table {name}", tasks):
            yield from _batches([path])

    def _example_files(self, shares: NDArray[np.int32]) -> list[Path]:
        """Where the examples of each share of the users' partitions lie for a while."""
        return [self.scratch / f"examples-{share}" for share in range(int(shares[-1]) + 1)]

    def _held_out_rows(self, span: HeldOut) -> tuple[list[NDArray[np.int32]], NDArray[np.int8]]:
        """Rows of each table, and labels (n,), of a span of held-out rows."""
        columns = read_rows(span.run, slice(0, span.run.n_rows))
        return [columns[name] for name in self.tables.names], columns["label"]

    def _write_held_out(self, root: Path, part: str) -> Any:
        """Write a part, which is one record batch: its columns are joined in files that are mapped."""
        spans = self.held_out[part]
        n_rows = sum(span.run.n_rows for span in spans)
        columns: dict[str, NDArray[Any]] = {}
        for name, dtype in {**dict.fromkeys(self.tables.names, np.int32), "label": np.int8}.items():
            path = self.scratch / f"{part}-{name}"
            with path.open("wb") as file:
                for span in spans:
                    read_rows(span.run, slice(0, span.run.n_rows), [name])[name].tofile(file)
            columns[name] = np.memmap(path, dtype, "r").view(np.ndarray) if n_rows else np.empty(0, dtype)
        return write_held_out_columns(root, part, columns)


def _joined(placed: Sequence[Placed], offsets: NDArray[np.int64]) -> Interactions:
    """Rows of spans, in global rows."""
    columns = [
        np.concatenate([np.empty(0, np.int64), *(span.rows[table] for span in placed)]) + offset
        for table, offset in enumerate(offsets)
    ]
    labels = np.concatenate([np.empty(0, np.int8), *(span.labels for span in placed)])
    return Interactions(np.stack(columns, axis=1), labels.astype(np.float32))


def _partition_edges(layout: Layout, degree: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges (partitions,) of each partition of a table whose rows have these degrees."""
    partition = np.arange(len(degree)) % layout.partitions
    return np.bincount(partition, weights=degree, minlength=layout.partitions).astype(np.int64)


def _sort_share(
    runs: Sequence[Run],
    layout: Layout,
    table: int,
    share: int,
    partitions: range,
    path: Path,
    examples_file: Path | None,
) -> Path:
    """Write the sorted edges of a share of a table's partitions, and perhaps their examples, a batch a partition."""
    edges, rows = read_share(runs, layout, table, share)
    if examples_file is not None:
        batches = example_batches(layout, edges.example, rows, edges.label, partitions)
        _write_batches(examples_file, example_schema(layout), batches)
    _write_batches(path, edge_schema(layout), edge_batches(layout, edges, partitions))
    return path


def _write_batches(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """Write record batches as an Arrow file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _batches(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The record batches of Arrow files, memory-mapped, each of which is deleted when it was read."""
    for path in paths:
        with pa.memory_map(str(path), "r") as source:
            file = pa.ipc.open_file(source)
            for index in range(file.num_record_batches):
                yield file.get_batch(index)
        remove([path])
