"""jobs/export.py: a version's model, or what changed of it since another version, as a file for a serving store."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.models.factory import build_model
from ifru_dist.models.propagation import Propagation
from ifru_dist.training.imported import DENSE_PREFIX
from ifru_dist.training.tensor_files import WRITABLE, Arrays, write_arrays
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

FORMAT = 1
"""Of the file's manifest; grows when a reader must know of a change."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the model of a version to a file that jobs/train.py --from reads back, or only what changed of it."""

    workspace: Path
    """Folder of the workspace; it is only read."""
    to: Path
    """The file: .npz, .safetensors or .pt."""
    version: Annotated[int | None, Field(ge=1)] = None
    """The version; default: the current one. An older one holds what was erased after it."""
    since: Annotated[int | None, Field(ge=1)] = None
    """An older version: write only the rows that differ from it, and the ids that were erased wholly since."""
    outputs: bool = False
    """Of a graph model, what it scores with: the embeddings propagated over the version's graph."""
    overwrite: bool = False
    """Replace a file that is there."""


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """The rows of one table that have an id."""

    ids: NDArray[Any]
    """(n,), int64 or unicode."""
    values: NDArray[np.float32]
    """(n, width)."""


def export(config: ExportConfig) -> int:
    """Run the job; the workspace is only read, and a refusal leaves no file behind.

    Raises:
        IfruError: the file cannot be written there, or a version is missing, damaged or without a model.
    """
    config = validated(config)
    _check_target(config)
    workspace = Workspace(config.workspace)
    version = _opened(workspace, config.version)
    before = None if config.since is None else _opened_before(workspace, config.since)
    number = version.manifest.version
    if before is not None and before.manifest.version >= number:
        raise ConfigError(f"--since = {config.since}: version {number} is exported: name an older version than that")
    arrays = _arrays(version, before, outputs=config.outputs)
    size_bytes = write_arrays(config.to, arrays, json.dumps(_manifest(version, before, outputs=config.outputs)))
    print(_summary(version, before, arrays, outputs=config.outputs))
    print(f"{size_bytes} bytes: {config.to}")
    return 0


def changed_rows(new: TableRows, old: TableRows) -> tuple[TableRows, NDArray[Any]]:
    """Compare a table with what it was: by id and bit by bit, so it does not matter how the change came about.

    Returns:
        The rows whose id is new or whose values differ, in the new order, and the ids (m,) that are gone.
    """
    new_ids, old_ids = pd.Index(new.ids), pd.Index(old.ids)
    position = old_ids.get_indexer(new_ids)
    differs = np.ones(len(new_ids), dtype=bool)
    if new.values.shape[1] == old.values.shape[1]:
        both = np.flatnonzero(position >= 0)
        now, then = new.values[both].view(np.uint32), old.values[position[both]].view(np.uint32)
        differs[both] = (now != then).any(axis=1)
    gone = new_ids.get_indexer(old_ids) < 0
    return TableRows(ids=new.ids[differs], values=new.values[differs]), old.ids[gone]


def _check_target(config: ExportConfig) -> None:
    """See that the file can be written where it is asked for, before anything is read."""
    path = config.to
    if path.suffix not in WRITABLE:
        raise ConfigError(f"--to = {path}: its kind is told by its ending: use one of {', '.join(WRITABLE)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--to = {path}: {path.parent} is no folder: make it")
    if path.is_dir() or (path.exists() and not config.overwrite):
        raise ConfigError(f"--to = {path}: is there already: give another name, or replace a file with --overwrite")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"--to = {path}: {error.strerror}: name a folder that you may write to") from error


def _opened(workspace: Workspace, number: int | None) -> Version:
    """A version with a model, its files checked."""
    manifest = workspace.manifest(number)
    if manifest.model is None:
        raise WorkspaceError(
            f"version {manifest.version} of {workspace.root} holds no model: name one that was made by jobs/train.py "
            "or after it"
        )
    return open_version(workspace, manifest.version, check_content=True)


def _opened_before(workspace: Workspace, since: int) -> Version:
    """The version to compare with."""
    current = workspace.manifest()
    if since < current.retained_from:
        raise WorkspaceError(
            f"--since = {since}: version {since} of {workspace.root} was vacuumed, so nothing can be compared with it: "
            "leave --since out to export all rows, and put them in the place of all that the serving store holds"
        )
    return _opened(workspace, since)


def _tables(version: Version, *, outputs: bool) -> list[TableRows]:
    """The rows of each table that have an id: all but the forgotten ones."""
    values = _outputs(version) if outputs else version.embeddings()
    tables = []
    for table in range(len(version.layout.tables)):
        ids = version.ids(table)
        known = ids.is_valid().to_numpy(zero_copy_only=False)
        named = ids.drop_null().to_numpy(zero_copy_only=False)
        named = named if named.dtype.kind == "i" else named.astype(np.str_)
        tables.append(TableRows(ids=named, values=values[version.layout.table_range(table)][known]))
    return tables


def _outputs(version: Version) -> NDArray[np.float32]:
    """F = P E (N, width), with the graph of the training positives that the version has left of those of its model."""
    embeddings, weights = version.embeddings(), build_model(version.model.spec).layer_weights
    propagation = Propagation(version.trained().positives(), len(embeddings), weights, torch.float32)
    return propagation.apply(torch.from_numpy(embeddings)).numpy()


def _arrays(version: Version, before: Version | None, *, outputs: bool) -> Arrays:
    """The arrays of the file, by name."""
    tables = _tables(version, outputs=outputs)
    removed: list[NDArray[Any]] = []
    if before is not None:
        older = _tables(before, outputs=outputs)
        compared = [changed_rows(*pair) for pair in zip(tables, older, strict=True)]
        tables, removed = [rows for rows, _ in compared], [ids for _, ids in compared]
    names = version.layout.tables
    named = [(_values_name(name, outputs=outputs), rows.values) for name, rows in zip(names, tables, strict=True)]
    named += [(f"{name}_ids", rows.ids) for name, rows in zip(names, tables, strict=True)]
    named += [(_removed_name(name), ids) for name, ids in zip(names, removed, strict=False)]
    named += [(DENSE_PREFIX + name, values) for name, values in _dense(version, before).items()]
    arrays = dict(named)
    if len(arrays) < len(named) or "manifest" in arrays:
        raise ConfigError(f"the tables {', '.join(names)} cannot be exported: a field has the name of another array")
    return arrays


def _dense(version: Version, before: Version | None) -> dict[str, NDArray[np.float32]]:
    """The model's own parameters, or those of them that differ from an older version's."""
    dense, older = version.dense(), {} if before is None else before.dense()
    same = {name for name in set(dense).intersection(older) if _same_bits(dense[name], older[name])}
    return {name: values for name, values in dense.items() if name not in same}


def _same_bits(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether two arrays have the same shape and the same bits."""
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def _values_name(table: str, *, outputs: bool) -> str:
    """Outputs have a name of their own: imported as embeddings they would be propagated twice."""
    return f"{table}_output" if outputs else table


def _removed_name(table: str) -> str:
    """The array of the ids that a serving store must delete."""
    return f"removed_{table}_ids"


def _manifest(version: Version, before: Version | None, *, outputs: bool) -> dict[str, Any]:
    """What the file says of itself."""
    workspace = version.workspace
    since = None if before is None else before.manifest.version
    return {
        "format": FORMAT,
        "version": version.manifest.version,
        "version_sha256": workspace.digest(version.manifest.version),
        "since": since,
        "since_sha256": None if since is None else workspace.digest(since),
        "rows": "outputs" if outputs else "embeddings",
        "model": asdict(version.model.spec),
    }


def _summary(version: Version, before: Version | None, arrays: Arrays, *, outputs: bool) -> str:
    """What was written, in words."""
    manifest, current = version.manifest, version.workspace.manifest()
    kind = "outputs" if outputs else "embeddings"
    since = "" if before is None else f" that changed since version {before.manifest.version}"
    lines = [f"version {manifest.version}: {version.model.spec.name}, {kind}{since}"]
    for table, size in zip(version.layout.tables, version.layout.sizes, strict=True):
        ids, removed = arrays[f"{table}_ids"], arrays.get(_removed_name(table))
        lines.append(f"{table}: {len(ids)} of {size} rows" + ("" if removed is None else f", {len(removed)} removed"))
    dense = [name for name in arrays if name.startswith(DENSE_PREFIX)]
    lines += [f"parameters of the model itself: {len(dense)}"] if version.dense() else []
    erased = current.n_erased - manifest.n_erased
    if erased or len(current.forgotten) > len(manifest.forgotten):
        lines.append(
            f"beware: version {manifest.version} is older than erasures: {erased} interactions were erased after it, "
            f"up to version {current.version}, and whole users or items may be among them"
        )
    return "\n".join(lines)
