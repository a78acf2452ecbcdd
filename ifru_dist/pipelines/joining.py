"""Which of the interactions of new logs a workspace lacks, in its own rows, and which ids it does not know yet."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.ingest.identifiers import integers_if_canonical
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.appending import grown_layout, moved
from ifru_dist.workspace.dataset import Dataset
from ifru_dist.workspace.version import Version

_PARTS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What new logs bring to a workspace."""

    ids: tuple[pa.Array, ...]
    """Of each table the new ones, of the type of the table's, sorted: they are the rows behind those that there are."""
    examples: Interactions
    """What is to be appended, in global rows of the grown layout."""
    already_there: dict[str, int]
    """Pairs of the logs that the workspace has already, by the part in which they are."""


def joined(version: Version, dataset: Dataset) -> Joined:
    """Find the rows of a dataset's training interactions in a version.

    Raises:
        InputError: ids of a table are integers in the workspace, but not in the dataset.
    """
    tables = [_rows_of(version, table, ids) for table, ids in enumerate(dataset.ids)]
    ids = tuple(new for _, new in tables)
    layout = grown_layout(version.layout, tuple(map(len, ids)))
    starts = np.cumsum([0, *(len(part) for part in dataset.ids[:-1])])
    columns = [
        local[dataset.train.rows[:, table] - starts[table]] + layout.offsets[table]
        for table, (local, _) in enumerate(tables)
    ]
    examples = Interactions(np.stack(columns, axis=1), dataset.train.labels)
    known, counts = np.zeros(len(examples), dtype=bool), {}
    for part in _PARTS:
        stored = version.train() if part == "train" else version.held_out(part)
        there = np.isin(_keys(examples, layout.n_rows), _keys(moved(stored, version.layout, layout), layout.n_rows))
        counts[part] = int((there & ~known).sum())
        known |= there
    return Joined(ids=ids, examples=examples.take(~known), already_there=counts)


def _rows_of(version: Version, table: int, ids: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Rows (n,) inside a table of ids, new ones behind those that it has, and the new ids."""
    kind, name = version.ids(table).type, version.layout.tables[table]
    if pa.types.is_integer(kind) and not pa.types.is_integer(ids.type):
        ids = integers_if_canonical(ids)
        if not pa.types.is_integer(ids.type):
            raise InputError(
                f"the ids of table {name} are integers in the workspace, but the logs hold others, such as text, "
                "integers with leading zeros, or in CSV integers with .0, as pandas writes them beside empty cells: "
                "write them as the logs before (in pandas: .astype('Int64')), or name the right column"
            )
    ids = ids.cast(kind)
    found = version.find_rows(table, ids)
    is_new = found < 0
    rows = np.where(is_new, 0, found - version.layout.offsets[table])
    rows[is_new] = version.layout.sizes[table] + np.arange(is_new.sum())
    return rows, ids.filter(pa.array(is_new))


def _keys(interactions: Interactions, n_rows: int) -> NDArray[np.int64]:
    """One number (n,) for each user and item."""
    return interactions.rows[:, 0] * n_rows + interactions.rows[:, 1]
