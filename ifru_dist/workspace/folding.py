"""Lists of files that grow with every batch are kept short: the newest files of a full list become one.

As in a log-structured merge tree the older files are the larger ones, each at least twice the next, so a byte is
written again a number of times that grows with the logarithm of all that there is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_batches
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.tables import read_delta, write_delta

LONGEST_LIST = 64
"""Files of one kind that a manifest lists at most."""
_SHORT = LONGEST_LIST // 2
"""A list is never left longer than this by folding, whatever the sizes."""

Fold = Callable[[Staging, Sequence[FileEntry]], FileEntry]
"""Writes files of one kind, oldest first, as one."""


def appended(
    staging: Staging, entries: Sequence[FileEntry], new: Sequence[FileEntry], fold: Fold
) -> tuple[FileEntry, ...]:
    """A list with new files behind it, the newest of the old ones folded into one where it would be too long."""
    if not new or len(entries) + len(new) <= LONGEST_LIST:
        return (*entries, *new)
    first = first_folded([entry.size_bytes for entry in entries])
    return (*entries[:first], fold(staging, entries[first:]), *new)


def first_folded(sizes: Sequence[int]) -> int:
    """From which file on a full list is folded: all that are together as large as half of the next older one.

    Args:
        sizes: Of the files, oldest first.
    """
    first, together = len(sizes) - 1, sizes[-1]
    while first > 0 and (first >= _SHORT or sizes[first - 1] <= 2 * together):
        first -= 1
        together += sizes[first]
    return first


def fold_rows(staging: Staging, entries: Sequence[FileEntry]) -> FileEntry:
    """All rows of some tables, one after the other; a column that only later ones have is null in earlier ones."""
    table = pa.concat_tables(
        [open_arrow(staging.root, entry).read_all() for entry in entries], promote_options="default"
    ).combine_chunks()
    stem = entries[-1].path.rpartition("-")[0]
    return write_batches(staging, stem, table.schema, table.to_batches())


def fold_deltas(layout: Layout) -> Fold:
    """For deltas of embeddings: the newest value of each row."""

    def fold(staging: Staging, entries: Sequence[FileEntry]) -> FileEntry:
        deltas = [read_delta(staging.root, layout, entry) for entry in reversed(entries)]
        rows, values = (np.concatenate(parts) for parts in zip(*deltas, strict=True))
        changed, newest = np.unique(rows, return_index=True)
        return write_delta(staging, layout, changed, values[newest])

    return fold
