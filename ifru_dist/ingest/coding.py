"""Chunks of the logs as codes, sorted into buckets of pairs: all rows of a pair of user and item are in one bucket.

Then each bucket is settled by itself: what was erased before goes, and where a pair has one row only the last stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifru_dist.ingest.loops import buckets_of_pairs
from ifru_dist.ingest.reading import Chunk
from ifru_dist.ingest.spilling import Run, grouped_run, read_bucket, read_rows, write_run
from ifru_dist.ingest.splitting import last_of_pairs
from ifru_dist.ingest.suppressing import suppressed_pairs, suppressed_rows
from ifru_dist.ingest.vocabulary import Vocabulary
from ifru_dist.workspace.suppression import SuppressionList


@dataclass(frozen=True)
class Coded:
    """A chunk, or a bucket, and how many of its rows were left out as they name what was erased before."""

    run: Run
    """A column of codes (int32) for each table, named as it, label (int8), and further: of a chunk the timestamp
    (float64) where there is one, and ``#place`` (int32), the row's place in the chunk; of a settled bucket
    ``#position`` (int64), its place among the usable rows of all logs."""
    suppressed: dict[str, int]
    """By scope."""
    n_rows: int
    """Rows before those were left out of it that are not the last of their pair."""


def code_chunk(
    chunk: Chunk, index: int, vocabularies: Sequence[Vocabulary], masks: Sequence[Path], path: Path, n_buckets: int
) -> Coded:
    """Write the codes of a chunk's rows by buckets of pairs.

    Args:
        chunk: The rows.
        index: Number of the chunk.
        vocabularies: Of each id column.
        masks: Files of the masks (ids,) of users and of items that were erased before; or none.
        path: File to write.
        n_buckets: Of pairs.
    """
    columns = read_rows(chunk.rows, slice(0, chunk.rows.n_rows))
    names = list(columns)[: len(vocabularies)]
    for name, vocabulary in zip(names, vocabularies, strict=True):
        columns[name] = vocabulary.chunk_codes(index)[columns[name]]
    columns["#place"] = np.arange(chunk.rows.n_rows, dtype=np.int32)
    counts: dict[str, int] = {}
    if masks:
        left_out, counts = suppressed_rows([columns[name] for name in names[:2]], masks)
        columns = {name: column[~left_out] for name, column in columns.items()}
    bucket = buckets_of_pairs(columns["user"], columns["item"], n_buckets)
    run = grouped_run(path, columns, bucket, n_buckets)
    return Coded(run, counts, run.n_rows)


def settle_bucket(
    runs: Sequence[Run],
    starts: NDArray[np.int64],
    bucket: int,
    path: Path,
    suppression: tuple[Sequence[Vocabulary], SuppressionList] | None,
    *,
    one_of_each: bool,
) -> Coded:
    """Write the rows of a bucket that stay, in the order of the logs.

    Args:
        runs: Chunks in codes.
        starts: (chunks,) usable rows before each chunk.
        bucket: Which bucket.
        path: File to write.
        suppression: What was erased before, and the vocabularies, to look pairs up; or None.
        one_of_each: Keep only the last row of each pair.
    """
    buckets = range(bucket, bucket + 1)
    columns = read_bucket(runs, buckets)
    counts = [part.stop - part.start for part in (run.rows_of(buckets) for run in runs)]
    columns["#position"] = columns.pop("#place") + np.repeat(starts, counts)
    suppressed: dict[str, int] = {}
    if suppression is not None:
        left_out = suppressed_pairs(columns["user"], columns["item"], *suppression)
        suppressed = {"interaction": int(left_out.sum())}
        columns = {name: column[~left_out] for name, column in columns.items()}
    times = columns.pop("timestamp", None)
    n_rows = len(columns["user"])
    if one_of_each:
        kept = last_of_pairs(columns["user"], columns["item"], times)
        columns = {name: column[kept] for name, column in columns.items()}
    return Coded(write_run(path, columns), suppressed, n_rows)
