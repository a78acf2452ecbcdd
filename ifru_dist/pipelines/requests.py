"""Reading a file of deletion requests: what each one names, and the errors that refuse a whole file."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from ifru_dist.errors import InputError
from ifru_dist.workspace.ledger import Scope

READERS = {".parquet": "Parquet", ".csv": "CSV", ".jsonl": "JSON lines", ".json": "JSON lines"}


@dataclass(frozen=True)
class Request:
    """One deletion request as a user gave it."""

    request_id: str | None
    scope: Scope
    user: str | None
    item: str | None

    def describe(self) -> str:
        """What the request names, for a message to the one who sent it."""
        named = [f"user {self.user!r}"] if self.user is not None else []
        named += [f"item {self.item!r}"] if self.item is not None else []
        return f"{self.scope} {' and '.join(named)}"


def read_requests(path: Path) -> list[Request]:
    """Read requests from Parquet, CSV or JSON lines.

    Columns: ``user`` and ``item``, optionally ``scope`` (interaction, user or item; interaction when absent) and
    ``request_id``. A cell that the scope needs must not be empty, one that it does not need must be.

    Raises:
        InputError: naming the file, the row, what is wrong and the remedy; no request of the file is used then.
    """
    table = _read_table(path)
    if table.num_rows == 0:
        raise InputError(f"{path} holds no requests: give one row per deletion with columns user and item")
    missing = {"user", "item"} - set(table.column_names)
    if missing and not ("scope" in table.column_names and len(missing) == 1):
        raise InputError(
            f"{path} lacks the column(s) {', '.join(sorted(missing))}; it has {', '.join(table.column_names)}: rename "
            "the columns to user and item, optionally scope and request_id"
        )
    columns = {name: _texts(table, name) for name in ("request_id", "scope", "user", "item")}
    requests = [
        Request(request_id, _scope(scope, row, path), user, item)
        for row, (request_id, scope, user, item) in enumerate(zip(*columns.values(), strict=True), start=1)
    ]
    for row, request in enumerate(requests, start=1):
        _check_cells(request, row, path)
    return requests


def _read_table(path: Path) -> pa.Table:
    """The file's columns; identifiers stay text, so that leading zeros survive."""
    if not path.is_file():
        raise InputError(f"request file {path} does not exist: check --requests")
    if path.suffix not in READERS:
        raise InputError(f"request file {path} has the suffix {path.suffix!r}: use one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"request file {path} is empty: give one row per deletion with columns user and item")
    try:
        return _parse(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"request file {path} is no readable {READERS[path.suffix]} ({reason}): repair it") from error


def _parse(path: Path) -> pa.Table:
    """Parse by suffix."""
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path)
    if path.suffix != ".csv":
        return pa.json.read_json(path)
    names = ("user", "item", "scope", "request_id")
    types = {name: pa.string() for name in names}
    convert = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    return pa.csv.read_csv(path, convert_options=convert)


def _texts(table: pa.Table, name: str) -> list[str | None]:
    """A column as texts; an absent column, a null and an empty cell are None."""
    if name not in table.column_names:
        return [None] * table.num_rows
    column = table.column(name)
    if pa.types.is_floating(column.type):  # integers with empty cells, as pandas writes them
        column = pc.cast(column, pa.int64())
    return [text or None for text in pc.cast(column, pa.string()).to_pylist()]


def _scope(text: str | None, row: int, path: Path) -> Scope:
    """The scope a row names."""
    if text is None:
        return "interaction"
    for scope in get_args(Scope):
        if text == scope:
            return scope
    raise InputError(f"{path}, row {row}: scope {text!r} is unknown: use {', '.join(get_args(Scope))}")


def _check_cells(request: Request, row: int, path: Path) -> None:
    """Refuse a row whose cells do not fit its scope."""
    for name, value in (("user", request.user), ("item", request.item)):
        needed = request.scope in ("interaction", name)
        if needed and value is None:
            hint = "" if request.scope != "interaction" else "; to erase a whole user or item, say so in a column scope"
            raise InputError(
                f"{path}, row {row}: the {name} cell is empty, but scope {request.scope} needs it: fill it in{hint}"
            )
        if not needed and value is not None:
            raise InputError(
                f"{path}, row {row}: scope {request.scope} erases everything of that {request.scope}, but the {name} "
                f"cell holds {value!r}: empty it, or use scope interaction"
            )
