"""Lists that say which row of a table belongs to which id, for files of embeddings that hold no ids.

A folder has one list for each table:

- ``user_list.txt`` and ``item_list.txt``, as LightGCN-PyTorch's data sets come with: a line ``org_id remap_id``, then
  one line for each row, separated by a blank;
- or ``user_ids`` and ``item_ids`` as .csv or .parquet with the columns ``id`` and ``row``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from ifru_dist.errors import InputError, reason_of


@dataclass(frozen=True, kw_only=True)
class IdList:
    """The ids of a table's rows, and where they were found."""

    path: Path
    ids: NDArray[Any]
    """(rows,), int64 or unicode, in the order of the rows."""


def read_id_list(folder: Path, table: str) -> IdList:
    """Read the list of one table.

    Args:
        folder: holds the lists.
        table: ``user`` or ``item``.

    Raises:
        InputError: there is no list or more than one, or it does not name every row from 0 on exactly once.
    """
    path = _only_list(folder, table)
    id_name, row_name = ("org_id", "remap_id") if path.suffix == ".txt" else ("id", "row")
    try:
        columns = _read(path, id_name, row_name).select([id_name, row_name])
        columns.validate(full=True)
        ids, rows = _as_ids(path, columns.column(0)), _as_rows(path, columns.column(1))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: the list of ids cannot be read ({reason_of(error)}): it needs the columns {id_name} and "
            f"{row_name}"
        ) from None
    order = np.argsort(rows, kind="stable")
    wrong = np.flatnonzero(rows[order] != np.arange(len(rows)))
    if len(wrong):
        raise InputError(
            f"{path}: its {len(rows)} rows must be numbered 0 to {len(rows) - 1}, each once, but in ascending order "
            f"{rows[order][wrong[0]]} stands where {wrong[0]} should be: write one line for each row of the table"
        )
    return IdList(path=path, ids=ids[order])


def _only_list(folder: Path, table: str) -> Path:
    """The one file of a folder that lists a table's ids."""
    names = (f"{table}_list.txt", f"{table}_ids.csv", f"{table}_ids.parquet")
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        seen = " and ".join(path.name for path in found) or "none of them"
        raise InputError(f"--from-ids = {folder}: must hold one of {', '.join(names)}, but holds {seen}")
    return found[0]


def _read(path: Path, id_name: str, row_name: str) -> pa.Table:
    """Two columns of a list; ids of text files stay text, so that leading zeros survive."""
    if path.suffix == ".parquet":
        return pa.parquet.ParquetFile(path, page_checksum_verification=True).read(columns=[id_name, row_name])
    separated = pa.csv.ParseOptions(delimiter=" ", quote_char=False) if path.suffix == ".txt" else None
    types = pa.csv.ConvertOptions(
        column_types={id_name: pa.large_string(), row_name: pa.int64()},
        include_columns=[id_name, row_name],
        strings_can_be_null=False,
    )
    return pa.csv.read_csv(path, parse_options=separated, convert_options=types)


def _as_ids(path: Path, column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of integers or text as int64 or unicode."""
    if column.null_count:
        raise InputError(f"{path}: {column.null_count} ids are null: name every row")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"{path}: ids have type {column.type}: write them as integers or strings")
    return np.asarray(column.to_pylist(), dtype=np.str_)


def _as_rows(path: Path, column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A column of row numbers."""
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(
            f"{path}: rows have type {column.type} and {column.null_count} nulls: write whole numbers from 0 on"
        )
    return column.cast(pa.int64()).to_numpy()
