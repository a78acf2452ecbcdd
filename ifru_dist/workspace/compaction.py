"""Compaction: the files of a version that hold what it has erased, written anew without it.

Examples keep their ids, and rows their places, so that whatever is drawn or summed by these stays the same bit by bit.
"""

from dataclasses import replace
from typing import Any

import pyarrow as pa

from ifru_dist.workspace.dataset import write_examples, write_held_out, write_ids
from ifru_dist.workspace.files import FileEntry, Staging, UnkeptStaging
from ifru_dist.workspace.graph import write_graph
from ifru_dist.workspace.layout import HELD_OUT
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.tables import write_base
from ifru_dist.workspace.version import Version


def superseded(manifest: Manifest) -> dict[str, list[FileEntry]]:
    """The files of a version that hold what it has erased, by part, each with those that only say so.

    These are what compaction replaces.
    """
    parts: dict[str, list[FileEntry]] = {}
    if manifest.tombstones:
        parts["examples"] = [manifest.examples, *manifest.graph, *manifest.degrees, *manifest.tombstones]
    if manifest.forgotten:
        parts["ids"] = [*manifest.ids, *manifest.forgotten]
    if manifest.forgotten or manifest.held_out_erased:
        parts["held_out"] = [manifest.valid, manifest.test, *manifest.held_out_erased]
    if manifest.model and manifest.model.deltas:
        parts["embeddings"] = [*manifest.model.base, *manifest.model.deltas]
    return parts


def holds_erased(manifest: Manifest, current: Manifest) -> bool:
    """Whether a version's files hold anything that was erased by the time of the current one.

    Data that the current version has, and need not write anew, hold none of it; other data are older. Where nothing was
    ever erased, as after an append alone, nothing holds it.
    """
    if not current.suppression:
        return False
    stale = {entry for part in superseded(current).values() for entry in part}
    data = {manifest.examples, *manifest.ids, manifest.valid, manifest.test}
    return bool(superseded(manifest)) or not data <= set(current.files()) - stale


def compacted(version: Version, *, keep: bool = True) -> dict[str, Any]:
    """Write the files anew that ``superseded`` names; returns what changes in the manifest, nothing where none does.

    Memory and time go with the size of the data.

    Args:
        version: What is compacted.
        keep: Put the files into the workspace; otherwise they are only named, as a dry run needs them: one that comes
            out as a file that is there already, as that of a table without changed rows, has the same name.
    """
    parts, layout, changes = superseded(version.manifest), version.layout, dict[str, Any]()
    root = version.workspace.root
    with Staging(root) if keep else UnkeptStaging(root) as staging:
        if "examples" in parts:
            changes |= _examples(staging, version)
        if "ids" in parts:
            ids = tuple(_ids(staging, version, *table) for table in enumerate(layout.tables))
            changes |= {"ids": ids, "forgotten": ()}
        if "held_out" in parts:
            pairs = {part: write_held_out(staging, part, layout, version.held_out(part)) for part in HELD_OUT}
            changes |= {**pairs, "held_out_erased": ()}
        if "embeddings" in parts:
            base = write_base(staging, layout, version.embeddings())
            changes |= {"model": replace(version.model, base=base, deltas=())}
    return changes


def _examples(staging: Staging, version: Version) -> dict[str, Any]:
    """The examples that are left, and their graph."""
    train = version.train()
    graph, degrees = write_graph(staging, version.layout, train)
    examples = write_examples(staging, version.layout, train)
    return {"examples": examples, "graph": graph, "degrees": degrees, "tombstones": ()}


def _ids(staging: Staging, version: Version, table: int, name: str) -> FileEntry:
    """The ids of a table; built value by value, since an array with a mask may still hold what lies under it."""
    ids = version.ids(table)
    return write_ids(staging, name, pa.array(ids.to_pylist(), ids.type) if ids.null_count else ids)
