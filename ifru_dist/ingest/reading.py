"""Reading logs by Dask, a few fragments a task, into chunks of rows on disk: numbers of ids, labels, times.

A task turns its rows into numbers at once, so text never piles up, and holds no more than a chunk. Numbers count the
distinct ids of a chunk; which ids those are stands beside them, by buckets, for the vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ifru_dist.ingest.cleaning import MOST_ROWS, LabelRule, id_columns, read_parts
from ifru_dist.ingest.quarantine import QUARANTINE, count_reasons
from ifru_dist.ingest.sources import Columns, Fragment
from ifru_dist.ingest.spilling import Run, write_run
from ifru_dist.ingest.vocabulary import LocalIds, write_local_ids


@dataclass(frozen=True)
class Chunk:
    """Usable rows in file order."""

    rows: Run
    """Of each id column numbers (int32) of the ids, then label (int8), and timestamp (float64) where it is read."""
    ids: tuple[LocalIds, ...]
    """Of each id column: users, items, then further fields."""


@dataclass(frozen=True)
class Reading:
    """What the fragments of a task gave."""

    chunks: tuple[Chunk, ...]
    n_read: int
    """Rows, usable or not."""
    reasons: Counter[str]
    """How many rows are bad for each reason."""
    bad: Path | None
    """Rows for the quarantine, as an Arrow stream; None where there are none."""

    @property
    def n_usable(self) -> int:
        """Rows of all chunks."""
        return sum(chunk.rows.n_rows for chunk in self.chunks)


def in_tasks(fragments: Sequence[Fragment], chunk_rows: int) -> list[list[Fragment]]:
    """Fragments for each task: as many as make a chunk, in their order."""
    tasks: list[list[Fragment]] = []
    n_rows = chunk_rows
    for fragment in fragments:
        if n_rows >= chunk_rows:
            tasks.append([])
            n_rows = 0
        tasks[-1].append(fragment)
        n_rows += fragment.n_rows
    return tasks


def read_chunks(
    fragments: Sequence[Fragment], columns: Columns, rule: LabelRule, stem: Path, chunk_rows: int, n_buckets: int
) -> Reading:
    """Read fragments into chunks on disk.

    Args:
        fragments: What to read.
        columns: Names in the files.
        rule: What becomes a label.
        stem: How the names of the files that are written begin.
        chunk_rows: Rows that are held at a time, about.
        n_buckets: Into which the distinct ids go.

    Raises:
        InputError: a file is damaged.
    """
    quarantine = _Quarantine(stem.with_name(f"{stem.name}-bad"))
    n_read, chunks = 0, []
    usable = _usable(fragments, columns, rule, quarantine, min(chunk_rows, MOST_ROWS))
    for index, rows in enumerate(_joined(usable, chunk_rows)):
        chunks.append(_write_chunk(rows, stem.with_name(f"{stem.name}-{index}"), n_buckets))
        n_read += len(rows)
    quarantine.close()
    return Reading(tuple(chunks), n_read + quarantine.reasons.total(), quarantine.reasons, quarantine.written)


def bad_tables(readings: Sequence[Reading]) -> Iterator[pa.Table]:
    """The rows for the quarantine, a few at a time."""
    for reading in readings:
        if reading.bad is not None:
            with pa.memory_map(str(reading.bad), "r") as source:
                for batch in pa.ipc.open_stream(source):
                    yield pa.Table.from_batches([batch])


class _Quarantine:
    """A file of bad rows, which is made when there are some."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path
        self._writer: Any = None
        self.reasons: Counter[str] = Counter()
        self.written: Path | None = None

    def add(self, bad: pa.Table) -> None:
        """Append rows."""
        if len(bad):
            if self._writer is None:
                self._writer, self.written = pa.ipc.new_stream(str(self._path), QUARANTINE), self._path
            self._writer.write_table(bad)
            self.reasons += count_reasons(bad)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def _usable(
    fragments: Sequence[Fragment], columns: Columns, rule: LabelRule, quarantine: _Quarantine, most_rows: int
) -> Iterator[pa.Table]:
    """The usable rows of fragments, a few at a time; the others go to the quarantine."""
    for fragment in fragments:
        for part in read_parts(fragment, columns, rule, most_rows):
            quarantine.add(part.bad)
            if len(part.rows):
                yield part.rows


def _joined(tables: Iterator[pa.Table], least_rows: int) -> Iterator[pa.Table]:
    """Tables joined to ones of so many rows at least, but for the last."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= least_rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write_chunk(rows: pa.Table, stem: Path, n_buckets: int) -> Chunk:
    """Write usable rows with their ids as numbers, and the distinct ids."""
    columns, ids = {}, []
    for name in id_columns(rows):
        encoded = rows.column(name).combine_chunks().dictionary_encode()
        local, places = write_local_ids(stem.with_name(f"{stem.name}-{name}.ids"), encoded.dictionary, n_buckets)
        columns[name] = places[encoded.indices.to_numpy()]
        ids.append(local)
    columns |= {name: rows.column(name).to_numpy() for name in ("label", "timestamp") if name in rows.column_names}
    return Chunk(write_run(stem.with_name(f"{stem.name}.rows"), columns), tuple(ids))
