"""Reading a file of deletion requests: what each one names, and the errors that refuse a whole file."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ifru_dist.errors import InputError, reason_of
from ifru_dist.workspace.ledger import Scope
from ifru_dist.workspace.version import Version

READERS = {".parquet": "Parquet", ".csv": "CSV", ".jsonl": "JSON lines", ".json": "JSON lines"}
COLUMNS = ("request_id", "scope", "user", "item")
_SAME_WORD = 0.85
"""How alike (difflib's ratio) a column is to another name that was meant: "requestOid", but not "request_date"; "scop",
but not "score"."""
_ALSO_MEANT = {
    "request_id": re.compile(r"req.*id"),
    "user": re.compile(r"(user|u)[\W_]*ids?"),
    "item": re.compile(r"(item|i)[\W_]*ids?"),
}
"""What else is meant for a column: "req_id", "user_id"."""
_WHOLE_FLOAT = re.compile(r"-?[0-9]+\.0+")
_EXACT_FLOATS = 2**53
"""Beyond this, neighbouring integers are the same float."""


@dataclass(frozen=True)
class Request:
    """One deletion request as a user gave it."""

    request_id: str | None
    scope: Scope
    user: str | None
    item: str | None
    received: str = field(default="", compare=False)
    """UTC time of its file's last change, ISO 8601; when it was read, where the file says that it is of the future."""
    row: int = field(default=0, compare=False)
    """Its row in the file, from 1."""
    delivery: str = field(default="", compare=False)
    """By which a file in a watched folder is known."""


def with_integer_ids(requests: Sequence[Request], version: Version) -> list[Request]:
    """The requests with whole floats as integers where a table's ids are integers.

    pandas writes a column of integers with empty cells as floats: the text 352.0 in a CSV file then means 352.
    """
    integer_users, integer_items = (pa.types.is_integer(version.id_type(table)) for table in (0, 1))
    read = []
    for request in requests:
        user = _without_fraction(request.user) if integer_users else request.user
        item = _without_fraction(request.item) if integer_items else request.item
        same = user is request.user and item is request.item
        read.append(request if same else replace(request, user=user, item=item))
    return read


def read_requests(path: Path, option: str = "--requests") -> list[Request]:
    """Read requests from Parquet, CSV or JSON lines.

    Columns: ``user`` and ``item``, optionally ``scope`` (interaction, user or item; interaction when absent) and
    ``request_id``. A cell that the scope needs must not be empty, one that it does not need must be.

    Raises:
        InputError: naming the file, the row, what is wrong and the remedy; no request of the file is used then.
    """
    columns, rows = _read_columns(path, option)
    if rows == 0:
        raise InputError(f"{path} holds no requests: give one row per deletion with columns user and item")
    _check_columns(list(columns), path)
    _check_misspelt(columns, path)
    cells = [_texts(columns.get(name, [None] * rows), name, path) for name in COLUMNS]
    received = datetime.fromtimestamp(min(path.stat().st_mtime, time.time()), UTC).isoformat(timespec="seconds")
    requests = [
        Request(request_id, _scope(scope, row, path), user, item, received, row)
        for row, (request_id, scope, user, item) in enumerate(zip(*cells, strict=True), start=1)
    ]
    for row, request in enumerate(requests, start=1):
        _check_cells(request, row, path)
    return requests


def _read_columns(path: Path, option: str) -> tuple[dict[str, list[Any]], int]:
    """The file's columns by name, and the number of its rows."""
    if not path.is_file():
        raise InputError(f"request file {path} does not exist: check {option}")
    if path.suffix.lower() not in READERS:
        raise InputError(f"request file {path} has the suffix {path.suffix!r}: use one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"request file {path} is empty: give one row per deletion with columns user and item")
    try:
        return _parse(path)
    except PermissionError:
        raise InputError(f"request file {path} may not be read: check its permissions") from None
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
        kind = READERS[path.suffix.lower()]
        raise InputError(f"request file {path} is no readable {kind} ({reason}): repair it") from error


def _parse(path: Path) -> tuple[dict[str, list[Any]], int]:
    """Parse by suffix."""
    if path.suffix.lower() in (".json", ".jsonl"):
        return _parse_json_lines(path)
    if path.suffix.lower() == ".parquet":
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    else:  # identifiers stay text, so that leading zeros survive
        types = {name: pa.string() for name in COLUMNS}
        convert = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        table = pa.csv.read_csv(path, convert_options=convert)
    table.validate(full=True)  # text and offsets of a damaged Parquet file are not checked by its reader
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise ValueError(f"it has more than one column {twice[0]!r}")
    return {name: table.column(name).to_pylist() for name in table.column_names}, table.num_rows


def _parse_json_lines(path: Path) -> tuple[dict[str, list[Any]], int]:
    """Parse each line by itself: a reader that guesses types of columns would take ids that look like dates for dates.

    Raises:
        ValueError: a line is no JSON object.
    """
    records = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(record, dict):
                raise ValueError(f"line {number} is no object in braces")
            records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}, len(records)


def _check_columns(names: list[str], path: Path) -> None:
    """Refuse a file that lacks the columns that requests need."""
    missing = {"user", "item"} - set(names)
    if missing and not ("scope" in names and len(missing) == 1):
        # A CSV file without a header would show the ids of its first row.
        shown = f"a first line of {len(names)} values" if path.suffix == ".csv" else ", ".join(names)
        raise InputError(
            f"{path} lacks the column(s) {', '.join(sorted(missing))}; it has {shown}: rename the columns to user and "
            "item, optionally scope and request_id"
        )


def _check_misspelt(columns: dict[str, list[Any]], path: Path) -> None:
    """Refuse a column that was meant for another one, which would be read as if it were not there.

    A row of scope item without a user is a whole item: were its user in a column "User", far more would go than asked.
    """
    for known, name in product(COLUMNS, columns):
        if name in COLUMNS or not _is_meant(name, known):
            continue
        row = _filled_instead(columns[known], columns[name]) if known in columns else None
        lacks = f"{known!r} is empty where it is filled (row {row})" if row else f"none {known!r}"
        if row or known not in columns:
            raise InputError(
                f"{path} has a column {name!r}, but {lacks}: rename it to {known} if that is meant, otherwise leave it "
                "out, or give it a name that is less alike"
            )


def _is_meant(name: str, known: str) -> bool:
    """Whether a column's name is close to one that is read."""
    plain, also = name.strip().lower(), _ALSO_MEANT.get(known)
    return bool((also and also.fullmatch(plain)) or get_close_matches(plain, [known], cutoff=_SAME_WORD))


def _filled_instead(values: list[Any], others: list[Any]) -> int | None:
    """The first row in which a column is empty and one of a name like its own is not, as JSON lines may have it."""
    rows = enumerate(zip(values, others, strict=True), start=1)
    return next((row for row, (value, other) in rows if _is_empty(value) and not _is_empty(other)), None)


def _is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: a null, an empty text or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _texts(values: list[Any], name: str, path: Path) -> list[str | None]:
    """A column as texts; a null, an empty cell and NaN are None."""
    return [_text(value, name, row, path) for row, value in enumerate(values, start=1)]


def _text(value: Any, name: str, row: int, path: Path) -> str | None:
    """A cell as text; whole floats are integers, which pandas so writes beside empty cells."""
    if _is_empty(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if value.is_integer() and abs(value) <= _EXACT_FLOATS:
            return str(int(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(
        f"{path}, row {row}: the {name} cell holds a {type(value).__name__} value: write an integer or a text"
    )


def _without_fraction(text: str | None) -> str | None:
    """A text without the fraction of a whole float."""
    return text.partition(".")[0] if text is not None and "." in text and _WHOLE_FLOAT.fullmatch(text) else text


def _scope(text: str | None, row: int, path: Path) -> Scope:
    """The scope a row names."""
    if text is None:
        return "interaction"
    for scope in get_args(Scope):
        if text == scope:
            return scope
    raise InputError(f"{path}, row {row}: the scope cell holds no known scope: use {', '.join(get_args(Scope))}")


def _check_cells(request: Request, row: int, path: Path) -> None:
    """Refuse a row whose cells do not fit its scope, or are no text."""
    for name, value in (("user", request.user), ("item", request.item), ("request_id", request.request_id)):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}, row {row}: the {name} cell is no valid Unicode text: repair it") from None
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
                "cell is filled: empty it, or use scope interaction"
            )
