"""Appending: the files of a version with further examples, and with rows for ids that it does not know yet.

New rows lie at the end of their tables, so that old ones keep their places; what is stored is local to a table, and
global rows follow from the sizes of the tables. Like a compaction it writes anew what holds erased data.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.interactions import Interactions
from ifru_dist.models.initial import unseen_rows
from ifru_dist.workspace.dataset import write_examples, write_held_out, write_ids
from ifru_dist.workspace.files import FileEntry, Staging
from ifru_dist.workspace.graph import write_graph
from ifru_dist.workspace.layout import HELD_OUT, Layout
from ifru_dist.workspace.manifest import ModelRecord
from ifru_dist.workspace.tables import write_base
from ifru_dist.workspace.version import Version


def moved(interactions: Interactions, old: Layout, new: Layout) -> Interactions:
    """Interactions with the global rows of another layout of the same tables."""
    shift = np.asarray(new.offsets) - np.asarray(old.offsets)
    return Interactions(interactions.rows + shift, interactions.labels, interactions.ids)


def rows_in(rows: NDArray[np.int64], layout: Layout, older: Layout) -> NDArray[np.int64]:
    """Global rows (n,) of a layout as those (m,) of an older one with shorter tables; but for those that it lacks."""
    tables, local = layout.table_of(rows), layout.local(rows)
    known = local < np.asarray(older.sizes)[tables]
    return older.global_rows(tables[known], local[known])


def grown(
    values: NDArray[np.float32], old: Layout, new: Layout, added: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Embeddings (N, width) of the rows of an older layout as those (M, width) of one with longer tables.

    Args:
        values: Those of the older layout.
        old: The older layout.
        new: The one with longer tables.
        added: (M, width), of which the rows that the older one lacks are taken; None: zeros.
    """
    result = np.zeros((new.n_rows, values.shape[1]), np.float32) if added is None else added.copy()
    for table in range(len(new.tables)):
        start = new.offsets[table]
        result[start : start + old.sizes[table]] = values[old.table_range(table)]
    return result


def grown_layout(layout: Layout, added: tuple[int, ...]) -> Layout:
    """The layout with so many more rows in each table."""
    return replace(layout, sizes=tuple(size + more for size, more in zip(layout.sizes, added, strict=True)))


def appended_data(version: Version, ids: tuple[pa.Array, ...], examples: Interactions) -> dict[str, Any]:
    """Write the files of a version with further examples; returns what changes in the manifest.

    Memory and time go with the size of the data.

    Args:
        version: What is appended to.
        ids: Of each table the new ones, of the type of the table's, in the order of their rows.
        examples: The new ones, in global rows of the grown layout.
    """
    manifest, old = version.manifest, version.layout
    layout = grown_layout(old, tuple(map(len, ids)))
    first = manifest.n_examples
    numbered = replace(examples, ids=np.arange(first, first + len(examples)))
    train = moved(version.train(), old, layout).joined(numbered)
    with Staging(version.workspace.root) as staging:
        graph, degrees = write_graph(staging, layout, train)
        pairs = {
            part: write_held_out(staging, part, layout, moved(version.held_out(part), old, layout)) for part in HELD_OUT
        }
        return {
            "layout": layout,
            "ids": tuple(_write_ids(staging, version, table, new) for table, new in enumerate(ids)),
            "examples": write_examples(staging, layout, train),
            "n_examples": first + len(examples),
            "graph": graph,
            "degrees": degrees,
            **pairs,
            **dict.fromkeys(("tombstones", "forgotten", "held_out_erased"), ()),
            "model": None if manifest.model is None else _grown_model(staging, version, layout, ids),
        }


def unseen_values(layout: Layout, ids: tuple[pa.Array, ...], width: int, model: ModelRecord) -> NDArray[np.float32]:
    """What a model's new rows hold, (M, width), each at the end of its table: zeros elsewhere, and where an id is null.

    Args:
        layout: The grown layout.
        ids: Of each table the new ones.
        width: Of a row.
        model: Says what rows without training data hold.
    """
    values = np.zeros((layout.n_rows, width), np.float32)
    for table, (name, new) in enumerate(zip(layout.tables, ids, strict=True)):
        known = np.flatnonzero(new.is_valid().to_numpy(zero_copy_only=False))
        texts = new.cast(pa.large_string()).take(pa.array(known)).to_pylist()
        rows = layout.table_range(table).stop - len(new) + known
        values[rows] = unseen_rows(name, texts, width, model.spec.init_std, model.seed)
    return values


def brought_up(
    staging: Staging, older: Version, version: Version, embeddings: NDArray[np.float32]
) -> tuple[FileEntry, ...]:
    """Write an older version's embeddings (N, width), perhaps changed, with rows for what was appended since."""
    layout, before, model = version.layout, older.layout, older.model
    ids = tuple(version.ids(table).slice(size) for table, size in enumerate(before.sizes))
    added = unseen_values(layout, ids, embeddings.shape[1], model)
    return write_base(staging, layout, grown(embeddings, before, layout, added))


def _write_ids(staging: Staging, version: Version, table: int, new: pa.Array) -> FileEntry:
    """All ids of a table; value by value where some are forgotten, as an array with a mask may hold what lies under."""
    old = version.ids(table)
    joined = (
        pa.array([*old.to_pylist(), *new.to_pylist()], old.type) if old.null_count else pa.concat_arrays([old, new])
    )
    return write_ids(staging, version.layout.tables[table], joined)


def _grown_model(staging: Staging, version: Version, layout: Layout, ids: tuple[pa.Array, ...]) -> ModelRecord:
    """The version's model with rows for the new ids, and with what it was trained on."""
    model, values = version.model, version.embeddings()
    added = unseen_values(layout, ids, values.shape[1], model)
    base = write_base(staging, layout, grown(values, version.layout, layout, added))
    return replace(model, base=base, deltas=(), **version.trained_on)
