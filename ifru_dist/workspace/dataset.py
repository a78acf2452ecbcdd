"""Writing the data of a workspace: ids, examples, graph and held-out pairs become the first version."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ifru_dist.errors import WorkspaceError
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.files import FileEntry, Staging, write_batches, write_table
from ifru_dist.workspace.graph import write_graph
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.store import Workspace, utc_now
from ifru_dist.workspace.suppression import write_suppression


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Preprocessed interactions in memory. Rows are global: users first, then items, then those of further fields."""

    ids: tuple[pa.Array, ...]
    """External ids in row order, int64 or large_string, one array per table."""
    tables: tuple[str, ...] = ("user", "item")
    """Names of the tables."""
    train: Interactions
    """In a fixed order: the position is the example's id."""
    valid: Interactions
    test: Interactions
    key_fingerprint: str | None = None
    """Of the key of the audit digests."""
    suppressed: Collection[bytes] = ()
    """Digests, by the same key, that are carried over from another workspace: what must not come back."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Counts for the manifest."""


def require_unused(workspace: Workspace) -> None:
    """Raise WorkspaceError when the folder holds a workspace already."""
    if versions := workspace.versions():
        raise WorkspaceError(f"{workspace.root} holds version {versions[-1]} already: choose another --workspace")


def write_dataset(workspace: Workspace, data: Dataset, partitions: int) -> Manifest:
    """Write the first version of a workspace. The caller holds the lock.

    Raises:
        WorkspaceError: the folder holds a workspace already.
    """
    require_unused(workspace)
    root = workspace.root
    layout = Layout(partitions=partitions, sizes=tuple(len(ids) for ids in data.ids), tables=data.tables)
    train = replace(data.train, ids=None)
    graph, degrees = write_graph(root, layout, train)
    manifest = Manifest(
        version=1,
        parent=None,
        kind="preprocess",
        created=utc_now(),
        key_fingerprint=data.key_fingerprint,
        epoch=1,
        layout=layout,
        ids=tuple(write_ids(root, name, ids) for name, ids in zip(data.tables, data.ids, strict=True)),
        examples=write_examples(root, layout, train),
        n_examples=len(data.train),
        graph=graph,
        degrees=degrees,
        valid=write_held_out(root, "valid", layout, data.valid),
        test=write_held_out(root, "test", layout, data.test),
        suppression=(write_suppression(root, data.suppressed, 1),) if data.suppressed else (),
        extra=data.extra,
    )
    workspace.commit(manifest)
    return manifest


def write_examples(root: Path | Staging, layout: Layout, train: Interactions) -> FileEntry:
    """Write examples, one record batch per partition of the user's row, by example id within it.

    They come by id: the position, where they have none.
    """
    schema = pa.schema([("example", pa.int64()), *((name, pa.int32()) for name in layout.tables), ("label", pa.int8())])
    partition = train.rows[:, 0] % layout.partitions
    order = np.argsort(partition, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(partition, minlength=layout.partitions))])
    ids = np.arange(len(train)) if train.ids is None else train.ids

    def batches() -> Iterator[pa.RecordBatch]:
        for start, stop in pairwise(bounds):
            chosen = order[start:stop]
            columns = [ids[chosen], *_stored_columns(layout, train.take(chosen)).values()]
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema)

    return write_batches(root, "examples/examples", schema, batches())


def write_ids(root: Path | Staging, table: str, ids: pa.Array) -> FileEntry:
    """Write the external ids of a table in row order."""
    return write_table(root, f"ids/{table}", {"id": ids})


def write_held_out(root: Path | Staging, part: str, layout: Layout, pairs: Interactions) -> FileEntry:
    """Write the ``valid`` or ``test`` interactions in their order."""
    return write_table(root, f"split/{part}", _stored_columns(layout, pairs))


def _stored_columns(layout: Layout, interactions: Interactions) -> dict[str, Any]:
    """Rows within their tables, and labels, as they are stored."""
    local = (interactions.rows - np.asarray(layout.offsets)).astype(np.int32)
    return {**dict(zip(layout.tables, local.T, strict=True)), "label": interactions.labels.astype(np.int8)}
