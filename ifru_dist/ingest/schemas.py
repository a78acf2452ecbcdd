"""Do the files have the columns that are asked for, in types that can be used, and the same in all files?"""

from collections.abc import Sequence

import pyarrow as pa

from ifru_dist.errors import InputError
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.sources import Columns, LogFile

DEFAULT_TIMESTAMP = "timestamp"


def resolve_columns(options: PrepareOptions, files: Sequence[LogFile]) -> Columns:
    """Names of the columns to read, checked against every file.

    Timestamps only say which row of a pair is the last, so they are not read where the split is given.

    Raises:
        InputError: a column is missing or there twice, has a type that cannot be used, or differs between files.
    """
    asked = options.timestamp_column
    if asked is None and any(DEFAULT_TIMESTAMP in file.schema.names for file in files):
        asked = DEFAULT_TIMESTAMP
    columns = Columns(
        user=options.user_column,
        item=options.item_column,
        value=options.rating_column if options.label_column is None else options.label_column,
        timestamp=None if options.given_split else asked,
        fields=options.fields,
    )
    value_option = "--rating-column" if options.label_column is None else "--label-column"
    named_by = {"user": "--user-column", "item": "--item-column", "value": value_option}
    named_by |= dict.fromkeys(columns.fields, "--fields")
    for file in files:
        for role, name in columns.by_role().items():
            _check_present(file, name, named_by.get(role, "--timestamp-column"))
            _check_type(file, role, name)
    for name in (columns.user, columns.item, *columns.fields):
        _check_same_kind(files, name)
    return columns


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values: what a dictionary-encoded column decodes to."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's string types."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_present(file: LogFile, name: str, option: str) -> None:
    """The column is there once."""
    count = file.schema.names.count(name)
    if count == 0:
        # A CSV file without a header would show the ids of its first row.
        seen = f"a first line of {len(file.schema.names)} values" if file.is_csv else ", ".join(file.schema.names)
        raise InputError(f"{file.path} has no column {name!r}; it has: {seen}. Name the right one by {option}")
    if count > 1:
        raise InputError(f"{file.path} has {count} columns named {name!r}: rename all but one")


def _check_type(file: LogFile, role: str, name: str) -> None:
    """The column's type can serve its role."""
    kind = value_type(file.schema.field(name).type)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    usable, wanted = {
        "value": (is_number or pa.types.is_boolean(kind), "numbers"),
        "timestamp": (is_number or pa.types.is_timestamp(kind) or pa.types.is_date(kind), "numbers or timestamps"),
    }.get(role, (pa.types.is_integer(kind) or pa.types.is_floating(kind), "integers or strings"))
    if not (usable or is_text(kind)):
        raise InputError(f"column {name!r} of {file.path} has type {kind}: write it as {wanted}")


def _check_same_kind(files: Sequence[LogFile], name: str) -> None:
    """An id column has one kind of ids in all files."""
    first = files[0]
    for file in files[1:]:
        if _id_kind(file, name) != _id_kind(first, name):
            raise InputError(
                f"ids in column {name!r} are {_id_kind(first, name)} in {first.path} but {_id_kind(file, name)} in "
                f"{file.path}: write all files with the same type"
            )


def _id_kind(file: LogFile, name: str) -> str:
    """Integers, strings, or text of a CSV file, which may be either; floats stand for integers."""
    if file.is_csv:
        return "CSV text"
    return "strings" if is_text(value_type(file.schema.field(name).type)) else "integers"
