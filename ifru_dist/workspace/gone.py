"""What a version says is gone while its files still hold it; a file is read once, however many versions list it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.workspace.files import FileEntry, open_arrow
from ifru_dist.workspace.layout import HELD_OUT
from ifru_dist.workspace.manifest import Manifest

Columns = tuple[NDArray[np.int64], ...]
"""What is needed of one file. Files are named by their content, so it is the same in every version."""


@dataclass(frozen=True, kw_only=True)
class Gone:
    """Users, items and held-out pairs that are gone."""

    rows: NDArray[np.int64]
    """Global rows (n,), ascending, of users and items that were erased wholly."""
    held_out: dict[str, NDArray[np.int64]]
    """Part -> positions (n,) in its stored file, ascending, of the pairs that were erased by themselves."""
    read: Mapping[FileEntry, Columns]
    """What each of the version's files said, for the next version, most of whose files are the same."""


def read_gone(root: Path, manifest: Manifest, read_before: Mapping[FileEntry, Columns]) -> Gone:
    """What is gone of a version.

    Args:
        root: The workspace's folder.
        manifest: The version.
        read_before: ``Gone.read`` of a version before it: files that are there are not opened. May be empty.

    Raises:
        WorkspaceError: a file is missing or damaged.
    """
    kinds: list[tuple[tuple[FileEntry, ...], Callable[[pa.Table], Columns]]] = [
        (manifest.ids, _without_id),
        (manifest.forgotten, lambda table: _columns(table, "table", "row")),
        (manifest.held_out_erased, lambda table: _columns(table, "part", "position")),
    ]
    read: dict[FileEntry, Columns] = {}
    for entries, columns in kinds:
        for entry in entries:
            known = read_before.get(entry)
            read[entry] = columns(open_arrow(root, entry).read_all()) if known is None else known
    return Gone(rows=_rows(manifest, read), held_out=_held_out(manifest, read), read=read)


def are_among(values: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mask in the shape of the values: which are among some ascending ones; a pass over the latter is not needed."""
    if len(ascending) == 0:
        return np.zeros(values.shape, dtype=bool)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[place] == values)


def _rows(manifest: Manifest, read: Mapping[FileEntry, Columns]) -> NDArray[np.int64]:
    """Global rows, ascending: those that are listed as forgotten, and those whose ids compaction has nulled."""
    layout = manifest.layout
    listed = [layout.global_rows(*read[entry]) for entry in manifest.forgotten]
    nulled = [read[entry][0] + offset for entry, offset in zip(manifest.ids, layout.offsets, strict=True)]
    return _ascending([*listed, *nulled])


def _held_out(manifest: Manifest, read: Mapping[FileEntry, Columns]) -> dict[str, NDArray[np.int64]]:
    """Positions by part, ascending."""
    files = [read[entry] for entry in manifest.held_out_erased]
    return {
        name: _ascending([position[part == number] for part, position in files]) for number, name in enumerate(HELD_OUT)
    }


def _ascending(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Numbers in order; a stable sort makes use of the runs that it is given."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]), kind="stable")


def _columns(table: pa.Table, *names: str) -> Columns:
    """Columns in memory of their own: a view would keep the file mapped after a vacuum."""
    return tuple(table.column(name).to_numpy().astype(np.int64) for name in names)


def _without_id(table: pa.Table) -> Columns:
    """Local rows (n,), ascending, whose ids are null."""
    ids = table.column("id")
    return (np.flatnonzero(ids.is_null().to_numpy()) if ids.null_count else np.empty(0, np.int64),)
