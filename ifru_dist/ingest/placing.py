"""Rows in the order of their places: sorted into spans, then put into place within each; a place is an example's id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifru_dist.ingest.spilling import Columns, Run, grouped_run, mapped, read_bucket, read_rows, write_run
from ifru_dist.ingest.splitting import Places, Spans
from ifru_dist.workspace.graph import Edges
from ifru_dist.workspace.layout import Layout


@dataclass(frozen=True)
class Tables:
    """From codes to the rows of the tables."""

    names: tuple[str, ...]
    rows: tuple[Path, ...]
    """Of each table the file of the row (codes,) int32 that a code has in it; -1 for ids without training rows."""

    def rows_of(self, codes: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        """Rows (n,) of codes (n,), of each table."""
        return [mapped(path)[column] for path, column in zip(self.rows, codes, strict=True)]


@dataclass(frozen=True)
class Placed:
    """Rows of a span in the order of their places."""

    first: int
    """The place of the first."""
    rows: list[NDArray[np.int32]]
    """Of each table (n,), local; -1 where an id has no training rows."""
    labels: NDArray[np.int8]
    """(n,)."""

    def seen(self) -> "Placed":
        """Without the rows with an id that has no training rows."""
        seen = np.all([rows >= 0 for rows in self.rows], axis=0)
        return Placed(self.first, [rows[seen] for rows in self.rows], self.labels[seen])


def place_bucket(run: Run, left: NDArray[np.bool_], places: Places, spans: Spans, path: Path) -> Run:
    """Write those rows of a settled bucket that are left, by the spans that hold their places."""
    columns = {name: column[left] for name, column in read_rows(run, slice(0, run.n_rows)).items()}
    place = places.of(columns.pop("#position"))
    span = spans.holding(place)
    columns["#place"] = (place - spans.edges[span]).astype(np.int32)
    return grouped_run(path, columns, span, len(spans))


def read_span(runs: Sequence[Run], spans: Spans, span: int, tables: Tables) -> Placed:
    """The rows of a span in the order of their places."""
    columns = read_bucket(runs, range(span, span + 1))
    order = np.empty(len(columns["#place"]), np.int64)
    order[columns["#place"]] = np.arange(len(order))
    codes = [columns[name][order] for name in tables.names]
    return Placed(spans.bounds(span)[0], tables.rows_of(codes), columns["label"][order])


@dataclass(frozen=True)
class HeldOut:
    """Validation or test rows of a span that lie in the tables."""

    run: Run
    """A row of each table, and the label."""
    n_unseen: int
    n_positive: int


def place_held_out(runs: Sequence[Run], spans: Spans, span: int, tables: Tables, path: Path) -> HeldOut:
    """Write the rows of a span that lie in the tables, in the order of their places."""
    placed = read_span(runs, spans, span, tables)
    seen = placed.seen()
    run = write_run(path, {**dict(zip(tables.names, seen.rows, strict=True)), "label": seen.labels})
    return HeldOut(run, len(placed.labels) - len(seen.labels), int(seen.labels.sum()))


def scatter_span(
    runs: Sequence[Run], spans: Spans, span: int, tables: Tables, shares: Sequence[NDArray[np.int32]], stem: Path
) -> list[Run]:
    """Write the training rows of a span for each table, by the share of its partitions that holds their row.

    Args:
        runs: Rows by spans.
        spans: Which places each holds.
        span: One of training rows.
        tables: From codes to rows.
        shares: For each table the share (partitions,) of each partition.
        stem: How the names of the files begin.
    """
    placed = read_span(runs, spans, span, tables)
    example = np.arange(placed.first, placed.first + len(placed.labels), dtype=index_type(int(spans.edges[-1])))
    columns: Columns = dict(zip(tables.names, placed.rows, strict=True))
    columns |= {"label": placed.labels, "example": example}
    return [
        grouped_run(stem.with_name(f"{stem.name}-{name}"), columns, share[rows % len(share)], int(share[-1]) + 1)
        for name, rows, share in zip(tables.names, placed.rows, shares, strict=True)
    ]


def read_share(runs: Sequence[Run], layout: Layout, table: int, share: int) -> tuple[Edges, list[NDArray[np.int32]]]:
    """The edges of a table in a share of its partitions, by example id, and the rows of all tables (n,)."""
    columns = read_bucket(runs, range(share, share + 1))
    rows = [columns[name] for name in layout.tables]
    others = [rows[other] for other in layout.other_tables(table)]
    return Edges(rows[table], others, columns["label"], columns["example"]), rows


def shares_of(edges: NDArray[np.int64], share_rows: int) -> NDArray[np.int32]:
    """The share (partitions,) of each partition: consecutive ones, of so many edges together, or a single one.

    Args:
        edges: Edges of each partition (partitions,).
        share_rows: Edges of a share at most.
    """
    shares = np.zeros(len(edges), np.int32)
    held = int(edges[0])
    for partition in range(1, len(edges)):
        held += int(edges[partition])
        is_full = held > share_rows
        shares[partition] = shares[partition - 1] + is_full
        held = int(edges[partition]) if is_full else held
    return shares


def index_type(n_rows: int) -> type[np.signedinteger]:
    """The narrowest type that holds so many numbers."""
    return np.int32 if n_rows < 2**31 else np.int64
