"""Ids to codes. Each chunk of the logs brings the ids that occur in it, by buckets that follow from an id alone.

So every bucket can be made distinct by itself, whatever the number of ids: what it holds is a part of the vocabulary on
disk, and an id's code is its place there. Codes mean nothing but equality: the tables are sorted later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.ingest.loops import buckets_of_numbers, buckets_of_texts
from ifru_dist.ingest.spilling import Columns, Run, read_rows, write_run
from ifru_dist.workspace.layout import MAX_ROWS
from ifru_dist.workspace.ordering import stable_order


@dataclass(frozen=True)
class LocalIds:
    """The distinct ids of a chunk, by buckets, a record batch each."""

    path: Path
    bounds: NDArray[np.int64]
    """(buckets + 1,)."""


@dataclass(frozen=True)
class Bucket:
    """A part of a vocabulary."""

    path: Path
    """Its ids in the order of their codes, a single record batch."""
    codes: Run
    """Of the ids of each chunk that are in it, by chunk, counted from the first of the bucket."""
    n_ids: int


@dataclass(frozen=True)
class Vocabulary:
    """All distinct ids of a column."""

    buckets: tuple[Bucket, ...]

    @property
    def starts(self) -> NDArray[np.int64]:
        """(buckets + 1,): the code of the first id of each bucket, then the number of ids."""
        return np.cumsum([0, *(bucket.n_ids for bucket in self.buckets)])

    def __len__(self) -> int:
        """Number of ids."""
        return int(self.starts[-1])

    def chunk_codes(self, chunk: int) -> NDArray[np.int32]:
        """Codes (n,) of the distinct ids of a chunk, in its order."""
        parts = [
            read_rows(bucket.codes, bucket.codes.rows_of(range(chunk, chunk + 1)))["code"] + np.int32(start)
            for bucket, start in zip(self.buckets, self.starts[:-1], strict=True)
        ]
        return np.concatenate(parts)

    def ids(self, bucket: int) -> pa.Array:
        """The ids of one bucket in the order of their codes."""
        return read_ids(self.buckets[bucket].path)

    def take(self, codes: NDArray[np.integer]) -> pa.Array:
        """The ids of ascending codes (n,)."""
        bounds, starts = np.searchsorted(codes, self.starts), self.starts
        parts = [
            self.ids(bucket).take(pa.array(codes[bounds[bucket] : bounds[bucket + 1]] - starts[bucket]))
            for bucket in range(len(self.buckets))
            if bounds[bucket + 1] > bounds[bucket]
        ]
        return pa.concat_arrays(parts) if parts else self.ids(0)[:0]

    def check_size(self, name: str) -> None:
        """Raise InputError where there are more ids than a table may have rows."""
        if len(self) > MAX_ROWS:
            raise InputError(f"{name} has {len(self):,} ids, more than the {MAX_ROWS:,} that a table may hold")


def write_local_ids(path: Path, ids: pa.Array, n_buckets: int) -> tuple[LocalIds, NDArray[np.int32]]:
    """Write the distinct ids of a chunk by buckets.

    Returns:
        Where they are, and the place (n,) that each has there.
    """
    order, bounds = stable_order(_buckets_of(ids, n_buckets), n_buckets)
    sorted_ids = ids.take(pa.array(order))
    schema = pa.schema([("id", ids.type)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start, stop in pairwise(bounds):
            writer.write_batch(pa.record_batch([sorted_ids[start:stop]], schema=schema))
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return LocalIds(path, bounds), places


def merge_bucket(locals_: Sequence[LocalIds], bucket: int, path: Path) -> Bucket:
    """Make a bucket of the ids of all chunks distinct."""
    found = pa.chunked_array([_batch(local.path, bucket) for local in locals_]).combine_chunks()
    encoded = found.dictionary_encode()
    write_ids(path, encoded.dictionary)
    counts = [int(local.bounds[bucket + 1] - local.bounds[bucket]) for local in locals_]
    columns: Columns = {"code": encoded.indices.to_numpy()}
    codes = write_run(path.with_suffix(".codes"), columns, np.cumsum([0, *counts]))
    return Bucket(path, codes, len(encoded.dictionary))


def write_ids(path: Path, ids: pa.Array) -> None:
    """Write ids as a single record batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("id", ids.type)])) as writer:
        writer.write_batch(pa.record_batch([ids], names=["id"]))


def read_ids(path: Path) -> pa.Array:
    """Ids of a file with a single record batch, as a memory map."""
    return _batch(path, 0)


def _batch(path: Path, index: int) -> Any:
    """The ids of one record batch of a file, as a memory map."""
    return pa.ipc.open_file(pa.memory_map(str(path), "r")).get_batch(index).column(0)


def _buckets_of(ids: pa.Array, n_buckets: int) -> NDArray[np.int32]:
    """The bucket (n,) of each id, which follows from it alone."""
    if pa.types.is_integer(ids.type):
        return buckets_of_numbers(ids.to_numpy(), n_buckets)
    _, offsets, data = ids.buffers()
    starts = np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    return buckets_of_texts(starts, np.frombuffer(data or b"", np.uint8), n_buckets)
