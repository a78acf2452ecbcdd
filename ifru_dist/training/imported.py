"""Embeddings that were trained elsewhere: read, checked, and brought into the workspace's row order.

A file holds, for each table (``user`` and ``item``), the embeddings (rows, d) and the ids of their rows:

- .npz: arrays ``user``, ``user_ids``, ``item``, ``item_ids``; ids are integers or unicode strings.
- .safetensors: tensors ``user`` and ``item``; ids are integer tensors ``user_ids`` and ``item_ids``, or JSON lists
  under the same names in the file's metadata.

Ids are compared as numbers when both sides hold integers, otherwise as strings.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ifru_dist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ImportedEmbeddings:
    """Embeddings in the workspace's row order, and what of the file was not needed."""

    embeddings: NDArray[np.float32]
    """(N, d), the tables one after the other."""
    ignored: dict[str, int]
    """Per table: ids of the file that the workspace does not know."""


def load_embeddings(path: Path, tables: Mapping[str, NDArray[Any]]) -> ImportedEmbeddings:
    """Read one embedding for every row of every table.

    Args:
        path: a .npz or .safetensors file.
        tables: name -> ids (rows,) in row order; the result has the rows of the tables in this order.

    Raises:
        InputError: the file cannot be read, an array is missing or unusable, or a row has no embedding.
    """
    arrays = _read(path, tables)
    ordered: list[NDArray[np.float32]] = []
    ignored: dict[str, int] = {}
    for table, row_ids in tables.items():
        embeddings = _checked_embeddings(path, table, arrays[table])
        ids = _checked_ids(path, table, arrays[f"{table}_ids"], len(embeddings))
        if ordered and embeddings.shape[1] != ordered[0].shape[1]:
            raise InputError(
                f"{path}: array '{table}' has {embeddings.shape[1]} dimensions, the tables before it "
                f"{ordered[0].shape[1]}: export all tables of one model"
            )
        ordered.append(embeddings[_positions(path, table, ids, row_ids)])
        ignored[table] = len(ids) - len(row_ids)
    return ImportedEmbeddings(embeddings=np.concatenate(ordered), ignored=ignored)


def _read(path: Path, tables: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of the tables and of their ids."""
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise InputError(f"{path}: embeddings cannot be read from '{path.suffix}': save them as .npz or .safetensors")
    names = [name for table in tables for name in (table, f"{table}_ids")]
    try:
        arrays = readers[path.suffix](path, names)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: the embeddings cannot be read ({reason}): check the path, or export again") from None
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(f"{path}: no array {', '.join(map(repr, missing))}: the file must hold {', '.join(names)}")
    return arrays


def _read_npz(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Those of the named arrays that a .npz file holds; pickled objects are refused."""
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("not an archive of named arrays")
    with archive:
        return {name: archive[name] for name in names if name in archive.files}


def _read_safetensors(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Those of the named arrays that a .safetensors file holds, as tensors or, for ids, in its metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        arrays = {name: np.asarray(json.loads(metadata[name])) for name in names if name in metadata}
        for name in set(file.keys()).intersection(names):
            tensor = file.get_tensor(name)
            arrays[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return arrays


def _checked_embeddings(path: Path, table: str, embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """The embeddings as float32, if they are a finite matrix of floats."""
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or embeddings.shape[1] == 0:
        raise InputError(
            f"{path}: array '{table}' has shape {embeddings.shape} and type {embeddings.dtype}: "
            "embeddings must be floats of shape (rows, dim)"
        )
    with np.errstate(over="ignore"):
        embeddings = embeddings.astype(np.float32, copy=False)
    bad_rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad_rows):
        raise InputError(
            f"{path}: array '{table}' holds NaN or infinity in {len(bad_rows)} rows, first in row {bad_rows[0]}: "
            "export a model whose training has not diverged"
        )
    return embeddings


def _checked_ids(path: Path, table: str, ids: NDArray[Any], n_embeddings: int) -> pd.Index:
    """The ids as an index, if there is one for each embedding and none twice."""
    name = f"{table}_ids"
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: array '{name}' has shape {ids.shape} and type {ids.dtype}: "
            "ids must be integers or strings of shape (rows,)"
        )
    if len(ids) != n_embeddings:
        raise InputError(
            f"{path}: array '{name}' has {len(ids)} ids for the {n_embeddings} rows of '{table}': "
            "export one id for each embedding"
        )
    index = _id_index(ids)
    duplicates = index[index.duplicated()].unique()
    if len(duplicates):
        raise InputError(
            f"{path}: array '{name}' holds {len(duplicates)} ids more than once, such as "
            f"{_shown(duplicates)}: keep one embedding for each id"
        )
    return index


def _positions(path: Path, table: str, ids: pd.Index, row_ids: NDArray[Any]) -> NDArray[np.intp]:
    """Where in the file each of the workspace's rows is, (rows,)."""
    wanted = _id_index(row_ids)
    if (ids.dtype.kind in "iu") != (wanted.dtype.kind in "iu"):
        ids, wanted = ids.astype(str), wanted.astype(str)
    positions: NDArray[np.intp] = ids.get_indexer(wanted)
    missing = wanted[positions < 0]
    if len(missing):
        raise InputError(
            f"{path}: array '{table}_ids' lacks {len(missing)} of the workspace's {len(wanted)} ids of table "
            f"'{table}', such as {_shown(missing)}: train on the same interactions, or export every embedding"
        )
    return positions


def _id_index(ids: NDArray[Any]) -> pd.Index:
    """Ids as an index of integers, or else of strings."""
    return pd.Index(ids if ids.dtype.kind in "iu" else ids.astype(str))


def _shown(ids: pd.Index) -> str:
    """Up to three ids, as a message shows them."""
    return ", ".join(repr(identifier) for identifier in ids[:3].tolist())
