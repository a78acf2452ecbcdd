"""A model that was trained elsewhere: read, checked, and brought into the workspace's row order.

A file (``tensor_files`` says of which kinds) holds, for each table (``user`` and ``item``), the embeddings (rows, d)
under one of these names, and the ids of their rows as ``user_ids`` and ``item_ids``, unless lists give them:

- ``user``, ``item``: this project's own;
- ``embedding_user.weight``, ``embedding_item.weight``: LightGCN-PyTorch's (gusye1234);
- ``user_embedding.weight``, ``item_embedding.weight``: RecBole's, once exported as plain tensors.

Ids are compared as numbers when both sides hold integers, otherwise as strings. Dense parameters (all that is no row of
a table) stand under ``dense.NAME``, or under their bare name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ifru_dist.errors import ConfigError, InputError, reason_of
from ifru_dist.training.id_lists import read_id_list
from ifru_dist.training.tensor_files import Arrays, read_arrays

DENSE_PREFIX = "dense."
"""Before the name of a dense parameter in a file."""
_LARGEST = 1e15
"""Of an embedding's numbers; products of much larger ones are no float32 any more."""
MOST_COLUMNS = 2 * 65_536
"""Columns of a table at most: the widest rows of the widest model have so many."""


@dataclass(frozen=True, kw_only=True)
class ImportedEmbeddings:
    """A model in the workspace's row order, and what of the file was not needed."""

    embeddings: NDArray[np.float32]
    """(N, d), the tables one after the other."""
    ignored: dict[str, int]
    """Per table: ids of the file that the workspace does not know."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Per table these ids, as texts."""
    dense: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """The dense parameters that were expected, by name."""


def load_embeddings(
    path: Path,
    tables: Mapping[str, NDArray[Any]],
    *,
    ids_from: Path | None = None,
    expected_dense: Mapping[str, tuple[int, ...]] | None = None,
) -> ImportedEmbeddings:
    """Read one embedding for every row of every table, and every dense parameter.

    Args:
        path: a .npz, .safetensors, .pt or .pth file.
        tables: name -> ids (rows,) in row order; the result has the rows of the tables in this order.
        ids_from: a folder with a list of ids for each table (``id_lists``), for a file that holds none.
        expected_dense: name -> shape of the model's dense parameters, {} for a model that has none; None: those of the
            file are neither read nor checked, for a caller who does not know the model before the width of its rows.

    Raises:
        InputError: the file cannot be read, an array is missing, unusable or there twice, or a row has no embedding.
        ConfigError: ``ids_from`` is given for a file that holds ids.
    """
    arrays = read_arrays(path, lambda name: _is_wanted(name, tables, expected_dense))
    _check_names(path, arrays, tables, ids_from)
    ordered: list[NDArray[np.float32]] = []
    unknown: dict[str, list[str]] = {}
    for table, row_ids in tables.items():
        name, embeddings = _only(path, arrays, _table_names(table))
        embeddings = _checked_table(path, name, embeddings)
        ids = _ids_of(path, arrays, table, name, len(embeddings), ids_from)
        if ordered and embeddings.shape[1] != ordered[0].shape[1]:
            raise InputError(
                f"{path}: array '{name}' has {embeddings.shape[1]} dimensions, the tables before it "
                f"{ordered[0].shape[1]}: export all tables of one model"
            )
        positions = _positions(ids, table, row_ids)
        ordered.append(embeddings[positions])
        unknown[table] = ids.index.delete(positions).astype(str).tolist()
    dense = {} if expected_dense is None else _checked_dense(path, arrays, expected_dense)
    ignored = {table: len(ids) for table, ids in unknown.items()}
    return ImportedEmbeddings(embeddings=np.concatenate(ordered), ignored=ignored, unknown=unknown, dense=dense)


@dataclass(frozen=True)
class _Ids:
    """The ids of a table's rows, and where they stand, for messages."""

    where: str
    index: pd.Index


def _table_names(table: str) -> tuple[str, ...]:
    """The names under which a file may hold the embeddings of a table."""
    return table, f"embedding_{table}.weight", f"{table}_embedding.weight"


def _dense_names(name: str) -> tuple[str, ...]:
    """The names under which a file may hold a dense parameter."""
    return DENSE_PREFIX + name, name


def _is_wanted(name: str, tables: Mapping[str, Any], expected_dense: Mapping[str, Any] | None) -> bool:
    """Whether an array is read at all: others, such as the buffers of a state dict, are left alone."""
    if name in {n for table in tables for n in (*_table_names(table), f"{table}_ids")}:
        return True
    return expected_dense is not None and (name.startswith(DENSE_PREFIX) or name in expected_dense)


def _check_names(path: Path, arrays: Arrays, tables: Mapping[str, Any], ids_from: Path | None) -> None:
    """Every table and its ids are there, the ids in one place only."""
    given = [f"{table}_ids" for table in tables if f"{table}_ids" in arrays]
    if ids_from and given:
        raise ConfigError(f"--from-ids = {ids_from}: {path} holds {' and '.join(given)} itself: leave --from-ids out")
    wanted = [name for table in tables for name in ((table,) if ids_from else (table, f"{table}_ids"))]
    found = {*given, *(table for table in tables if any(name in arrays for name in _table_names(table)))}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{path}: no array {', '.join(map(repr, missing))}: the file must hold {', '.join(wanted)}; "
            "docs/formats.md has other names for them, and --from-ids gives ids that a file lacks"
        )


def _only(path: Path, arrays: Arrays, names: tuple[str, ...]) -> tuple[str, NDArray[Any]]:
    """The one of several names that a file uses, and its array."""
    found = [name for name in names if name in arrays]
    if len(found) > 1:
        raise InputError(f"{path}: holds {' and '.join(map(repr, found))}: leave all but one out")
    return found[0], arrays[found[0]]


def _checked_table(path: Path, name: str, embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """The embeddings as float32, if they are a finite matrix of floats."""
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or embeddings.shape[1] == 0:
        raise InputError(
            f"{path}: array '{name}' has shape {embeddings.shape} and type {embeddings.dtype}: "
            "embeddings must be floats of shape (rows, dim)"
        )
    if embeddings.shape[1] > MOST_COLUMNS:
        raise InputError(
            f"{path}: array '{name}' has {embeddings.shape[1]} columns: {MOST_COLUMNS} at most can be used"
        )
    embeddings = _as_float32(embeddings)
    bad_rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad_rows):
        raise InputError(
            f"{path}: array '{name}' holds NaN or infinity in {len(bad_rows)} rows, first in row {bad_rows[0]}: "
            "export a model whose training has not diverged"
        )
    largest = float(np.abs(embeddings).max(initial=0))
    if largest > _LARGEST:
        raise InputError(
            f"{path}: array '{name}' holds values up to {largest:.3g}, of which no score can be computed: "
            "export a model whose training has not diverged"
        )
    return embeddings


def _checked_dense(
    path: Path, arrays: Arrays, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """The dense parameters, if they are those that the model has, and finite."""
    missing = [name for name in expected if not any(n in arrays for n in _dense_names(name))]
    unknown = [name for name in arrays if name.startswith(DENSE_PREFIX) and name[len(DENSE_PREFIX) :] not in expected]
    if missing or unknown:
        seen = [f"no array {DENSE_PREFIX}{name}" for name in missing] + [f"an array {name}" for name in unknown]
        wanted = ", ".join(expected) or "none"
        raise InputError(f"{path}: {', '.join(seen)}, but the model's dense parameters are: {wanted}: check --model")
    dense = {}
    for parameter, shape in expected.items():
        name, values = _only(path, arrays, _dense_names(parameter))
        if values.shape != tuple(shape) or values.dtype.kind != "f":
            raise InputError(
                f"{path}: array '{name}' has shape {values.shape} and type {values.dtype}: the model needs floats of "
                f"shape {tuple(shape)}"
            )
        dense[parameter] = _as_float32(values)
        if not np.isfinite(dense[parameter]).all():
            raise InputError(
                f"{path}: array '{name}' holds NaN or infinity: export a model whose training has not diverged"
            )
    return dense


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Floats as float32; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _ids_of(path: Path, arrays: Arrays, table: str, name: str, n_embeddings: int, ids_from: Path | None) -> _Ids:
    """The ids of the embeddings under some name, from the file or from a list."""
    if ids_from is None:
        return _checked_ids(f"{path}: array '{table}_ids'", arrays[f"{table}_ids"], name, n_embeddings)
    listed = read_id_list(ids_from, table)
    return _checked_ids(f"{listed.path}", listed.ids, name, n_embeddings)


def _checked_ids(where: str, ids: NDArray[Any], name: str, n_embeddings: int) -> _Ids:
    """The ids as an index, if there is one for each embedding and none twice."""
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise InputError(
            f"{where} has shape {ids.shape} and type {ids.dtype}: ids must be integers or strings of shape (rows,)"
        )
    if len(ids) != n_embeddings:
        raise InputError(
            f"{where} has {len(ids)} ids for the {n_embeddings} rows of '{name}': export one id for each embedding"
        )
    index = _id_index(where, ids)
    repeated = np.flatnonzero(index.duplicated())
    if len(repeated):
        raise InputError(
            f"{where} holds {len(index[repeated].unique())} ids more than once, the first again in row {repeated[0]}: "
            "keep one embedding for each id"
        )
    return _Ids(where, index)


def _positions(ids: _Ids, table: str, row_ids: NDArray[Any]) -> NDArray[np.intp]:
    """Where in the file each of the workspace's rows is, (rows,)."""
    known, wanted = ids.index, _id_index(f"table '{table}'", row_ids)
    if (known.dtype.kind in "iu") != (wanted.dtype.kind in "iu"):
        known, wanted = known.astype(str), wanted.astype(str)
    positions: NDArray[np.intp] = known.get_indexer(wanted)
    missing = np.flatnonzero(positions < 0)
    if len(missing):
        raise InputError(
            f"{ids.where} lacks {len(missing)} of the workspace's {len(wanted)} ids of table '{table}': train on the "
            "same interactions, or export every embedding"
        )
    return positions


def _id_index(where: str, ids: NDArray[Any]) -> pd.Index:
    """Ids as an index of integers, or else of strings."""
    try:
        return pd.Index(ids if ids.dtype.kind in "iu" else ids.astype(str))
    except ValueError as error:
        raise InputError(f"{where} holds {reason_of(error)}: write ids as Unicode text or integers") from None
