"""The files of the logs, the fragments that are read at a time, and reading one."""

import csv
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ifru_dist.errors import InputError, reason_of

CSV_BLOCK_BYTES = 8 << 20
"""A quoted value that spans lines must fit into two blocks."""
CSV_BYTES_PER_ROW = 20
"""About; only how work is divided depends on it."""
PARQUET_BUFFER_BYTES = 1 << 20
"""Of a column that is read ahead."""
CSV_HEADER_RECORDS = 2
"""Arrow counts records from 1 and the header is the first."""


@dataclass(frozen=True)
class Columns:
    """Names that the roles have in the files."""

    user: str
    item: str
    value: str
    """The rating, or the label where labels are given."""
    timestamp: str | None
    fields: tuple[str, ...] = ()
    """Further id columns; the role of each is its name."""

    def by_role(self) -> dict[str, str]:
        """Column name by role, in the order in which they are read."""
        fields = {name: name for name in self.fields}
        roles = {"user": self.user, "item": self.item, **fields, "value": self.value}
        return roles if self.timestamp is None else {**roles, "timestamp": self.timestamp}


@dataclass(frozen=True)
class LogFile:
    """A file of the logs, its header read."""

    path: Path
    schema: pa.Schema
    """Columns and types; the columns of a CSV file are strings."""
    row_groups: tuple[int, ...] | None
    """Rows of each row group; None for CSV."""

    @property
    def is_csv(self) -> bool:
        """Whether the file is CSV, so that ids are text and may stand for integers."""
        return self.row_groups is None

    def fragments(self) -> "list[Fragment]":
        """What is read at a time: a row group of a Parquet file, a CSV file as a whole (in blocks)."""
        if self.row_groups is None:
            return [Fragment(self.path, None, 0, self.path.stat().st_size // CSV_BYTES_PER_ROW)]
        starts = accumulate(self.row_groups, initial=0)
        groups = enumerate(zip(starts, self.row_groups, strict=False))
        return [Fragment(self.path, group, start, n_rows) for group, (start, n_rows) in groups]


@dataclass(frozen=True)
class Fragment:
    """A piece of a file that one task reads."""

    path: Path
    row_group: int | None
    """None: a CSV file."""
    first_row: int
    """Number of the fragment's first row in its file."""
    n_rows: int
    """Rows, malformed ones too; of a CSV file about."""


@dataclass(frozen=True)
class MalformedRecord:
    """A CSV record with the wrong number of values."""

    row: int
    text: str
    """As it stands in the file; an unclosed quote may have drawn in several lines."""


def find_files(place: str, option: str) -> list[Path]:
    """Files that a path, folder or glob names, sorted by name; names beginning with ``_`` or ``.`` are left out.

    Raises:
        InputError: nothing is there, or a file is neither Parquet nor CSV.
    """
    path = Path(place)
    if path.is_file():
        found = [path]
    else:
        candidates = path.rglob("*") if path.is_dir() else (Path(name) for name in glob.glob(place, recursive=True))
        found = sorted(file for file in candidates if file.is_file() and file.name[0] not in "_.")
    if not found:
        raise InputError(f"{option} {place} matches no file: name a Parquet or CSV file, a folder of them, or a glob")
    for file in found:
        if file.suffix.lower() not in (".parquet", ".csv"):
            raise InputError(f"{file} is neither .parquet nor .csv: convert it, or choose the files by a glob")
    return found


def open_file(path: Path) -> LogFile:
    """Read a file's header.

    Raises:
        InputError: the file is empty, damaged or of another format.
    """
    if path.suffix.lower() == ".csv":
        return LogFile(path, pa.schema([(name, pa.large_string()) for name in _csv_header(path)]), None)
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            return LogFile(path, file.schema_arrow, rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, "Parquet", error) from error


def read_fragment(
    fragment: Fragment, columns: Columns, malformed: list[MalformedRecord], most_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a fragment as batches whose columns are named by role.

    Args:
        fragment: What to read.
        columns: Names in the file.
        malformed: Receives the CSV records that are left out of the batches.
        most_rows: Of a batch; one of a CSV file is what a block of it holds.

    Raises:
        InputError: the file is damaged.
    """
    names = columns.by_role()
    kind = "CSV" if fragment.row_group is None else "Parquet"
    try:
        batches = _csv_batches(fragment, list(names.values()), malformed)
        if fragment.row_group is not None:
            batches = _parquet_batches(fragment.path, fragment.row_group, list(names.values()), most_rows)
        for batch in batches:
            yield batch.select(list(names.values())).rename_columns(list(names))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(fragment.path, kind, error) from error


def _parquet_batches(path: Path, row_group: int, names: list[str], most_rows: int) -> Iterator[pa.RecordBatch]:
    """The batches of one row group, which is never decoded as a whole."""
    with pq.ParquetFile(path, page_checksum_verification=True, buffer_size=PARQUET_BUFFER_BYTES) as file:
        for batch in file.iter_batches(most_rows, row_groups=[row_group], columns=names, use_threads=False):
            batch.validate(full=True)  # text and offsets of a damaged file are not checked by its reader
            yield batch


def _csv_batches(fragment: Fragment, names: list[str], malformed: list[MalformedRecord]) -> Iterator[pa.RecordBatch]:
    """The batches of a CSV file, every value as text. One thread, else Arrow does not number the records."""

    def note(record: pa_csv.InvalidRow) -> str:
        malformed.append(MalformedRecord(record.number - CSV_HEADER_RECORDS, record.text))
        return "skip"

    with pa_csv.open_csv(
        fragment.path,
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=pa_csv.ConvertOptions(
            include_columns=names,
            column_types={name: pa.large_string() for name in names},
            strings_can_be_null=False,
        ),
    ) as reader:
        yield from reader


def _csv_header(path: Path) -> list[str]:
    """Column names of a CSV file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next((row for row in csv.reader(file) if row), None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, "CSV", error) from error
    if header is None:
        raise InputError(f"{path} is empty: give a file with a header and rows")
    return header


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """The error for a file that cannot be read."""
    hint = "look for an unclosed quote or text that is not UTF-8" if kind == "CSV" else "write or copy the file anew"
    return InputError(f"{path} cannot be read as {kind} ({reason_of(error)}): {hint}")
