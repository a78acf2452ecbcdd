"""Writing the data of a workspace: ids, examples, graph and held-out pairs become the first version."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import WorkspaceError
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.files import FileEntry, Staging, write_batches, write_table
from ifru_dist.workspace.graph import write_graph
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.ordering import stable_order
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


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """The files of a workspace's data, in place."""

    layout: Layout
    ids: tuple[FileEntry, ...]
    examples: FileEntry
    n_examples: int
    graph: tuple[FileEntry, ...]
    degrees: tuple[FileEntry, ...]
    valid: FileEntry
    test: FileEntry


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
    files = DataFiles(
        layout=layout,
        ids=tuple(write_ids(root, name, ids) for name, ids in zip(data.tables, data.ids, strict=True)),
        examples=write_examples(root, layout, train),
        n_examples=len(train),
        graph=graph,
        degrees=degrees,
        valid=write_held_out(root, "valid", layout, data.valid),
        test=write_held_out(root, "test", layout, data.test),
    )
    return commit_first(workspace, files, data.key_fingerprint, data.suppressed, data.extra)


def commit_first(
    workspace: Workspace,
    files: DataFiles,
    key_fingerprint: str | None,
    suppressed: Collection[bytes],
    extra: dict[str, Any],
) -> Manifest:
    """Make data that is in place the first version of a workspace. The caller holds the lock.

    Args:
        workspace: Where the files are.
        files: What it holds.
        key_fingerprint: Of the key of the audit digests.
        suppressed: Digests, by the same key, that are carried over from another workspace.
        extra: Counts for the manifest.
    """
    manifest = Manifest(
        version=1,
        parent=None,
        kind="preprocess",
        created=utc_now(),
        key_fingerprint=key_fingerprint,
        epoch=1,
        **{field.name: getattr(files, field.name) for field in fields(files)},
        suppression=(write_suppression(workspace.root, suppressed, 1),) if suppressed else (),
        extra=extra,
    )
    workspace.commit(manifest)
    return manifest


def write_examples(root: Path | Staging, layout: Layout, train: Interactions) -> FileEntry:
    """Write examples, one record batch per partition of the user's row, by example id within it.

    They come by id: the position, where they have none.
    """
    ids = np.arange(len(train)) if train.ids is None else train.ids
    stored = _stored_columns(layout, train)
    rows, label = [stored[name] for name in layout.tables], stored["label"]
    return write_example_batches(root, layout, example_batches(layout, ids, rows, label, range(layout.partitions)))


def write_example_batches(root: Path | Staging, layout: Layout, batches: Iterable[pa.RecordBatch]) -> FileEntry:
    """Write the examples from one record batch for each partition, in their order."""
    return write_batches(root, "examples/examples", example_schema(layout), batches)


def example_batches(
    layout: Layout,
    ids: NDArray[np.integer],
    rows: list[NDArray[np.int32]],
    label: NDArray[np.int8],
    partitions: range,
) -> Iterator[pa.RecordBatch]:
    """One record batch of examples for each of some consecutive partitions of the user's row.

    Args:
        layout: Of the workspace.
        ids: (n,) of all examples of these partitions, ascending.
        rows: Of each table, (n,), local.
        label: (n,).
        partitions: Which ones.
    """
    order, bounds = stable_order(rows[0] % layout.partitions - partitions.start, len(partitions))
    unsorted: list[NDArray[Any]] = [ids.astype(np.int64, copy=False), *rows, label]
    columns = [column[order] for column in unsorted]
    for start, stop in pairwise(bounds):
        yield pa.RecordBatch.from_arrays(
            [pa.array(column[start:stop]) for column in columns], schema=example_schema(layout)
        )


def example_schema(layout: Layout) -> pa.Schema:
    """Columns of the file of examples: id, a row of each table, label."""
    return pa.schema([("example", pa.int64()), *((name, pa.int32()) for name in layout.tables), ("label", pa.int8())])


def write_ids(root: Path | Staging, table: str, ids: pa.Array) -> FileEntry:
    """Write the external ids of a table in row order."""
    return write_table(root, f"ids/{table}", {"id": ids})


def write_held_out(root: Path | Staging, part: str, layout: Layout, pairs: Interactions) -> FileEntry:
    """Write the ``valid`` or ``test`` interactions in their order."""
    return write_held_out_columns(root, part, _stored_columns(layout, pairs))


def write_held_out_columns(root: Path | Staging, part: str, columns: dict[str, NDArray[np.integer]]) -> FileEntry:
    """Write the ``valid`` or ``test`` interactions from a row of each table (n,) int32, and the label (n,) int8."""
    return write_table(root, f"split/{part}", columns)


def _stored_columns(layout: Layout, interactions: Interactions) -> dict[str, Any]:
    """Rows within their tables, and labels, as they are stored."""
    local = (interactions.rows - np.asarray(layout.offsets)).astype(np.int32)
    return {**dict(zip(layout.tables, local.T, strict=True)), "label": interactions.labels.astype(np.int8)}
