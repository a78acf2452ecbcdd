"""Columns of many types as numbers, times and ids."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ifru_dist.ingest.schemas import is_text, value_type

NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"


_EXACT_BITS = {16: 11, 32: 24, 64: 53}
"""Beyond 2 to this power, neighbouring integers are the same float of so many bits."""


class NoWholeNumberError(ValueError):
    """A column of ids holds floats that are no integers, or that stand for several."""


def plain_columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Columns by role with dictionaries decoded, text as large_string and ids that are numbers as int64.

    Raises:
        NoWholeNumberError: naming the role.
        pyarrow.ArrowInvalid: an id is an integer beyond 64 bits.
    """
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = value_type(column.type)
        if is_text(kind):
            kind = pa.large_string()
        elif name not in ("value", "timestamp"):
            column, kind = _whole_numbers(column.cast(kind), name), pa.int64()
        columns[name] = column.cast(kind)
    return columns


def _whole_numbers(ids: pa.Array, role: str) -> pa.Array:
    """Ids without NaN where they are floats, as which pandas writes integers beside empty cells."""
    if not pa.types.is_floating(ids.type):
        return ids
    bound = 2.0 ** _EXACT_BITS[ids.type.bit_width]
    numbers = pc.if_else(pc.is_nan(ids), None, ids).cast(pa.float64())
    whole = pc.and_(pc.equal(pc.trunc(numbers), numbers), pc.less_equal(pc.abs(numbers), bound))
    if not pc.all(whole, min_count=0).as_py():
        raise NoWholeNumberError(role)
    return numbers


def as_numbers(column: pa.Array) -> NDArray[np.float64]:
    """Values (n,) of a column of numbers, booleans or text; NaN for null and for text that is no number."""
    if is_text(column.type):
        text = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.match_substring_regex(text, NUMBER), text, pa.scalar(None, text.type))
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return _with_nan(column.cast(pa.float64(), safe=False))


def as_times(column: pa.Array) -> NDArray[np.float64]:
    """Times (n,) to compare: numbers as they are, timestamps and ISO 8601 text in seconds since 1970 (UTC)."""
    if is_text(column.type):
        numbers = as_numbers(column)
        rest = column.to_pandas().where(np.isnan(numbers))
        dates = pd.to_datetime(rest, format="ISO8601", utc=True, errors="coerce")
        return np.where(np.isnan(numbers), _seconds(pa.Array.from_pandas(dates)), numbers)
    return _seconds(column) if pa.types.is_temporal(column.type) else as_numbers(column)


def is_missing(ids: pa.Array) -> NDArray[np.bool_]:
    """Mask (n,): null, or text of nothing but white space."""
    missing = pc.is_null(ids)
    if is_text(ids.type):
        missing = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)
    return missing.to_numpy(zero_copy_only=False)


def has_line_break(ids: pa.Array) -> NDArray[np.bool_]:
    """Mask (n,): text with a line break, which is what an unclosed quote in a CSV file makes of two lines."""
    if not is_text(ids.type):
        return np.zeros(len(ids), dtype=bool)
    return pc.fill_null(pc.match_substring(ids, "\n"), False).to_numpy(zero_copy_only=False)


def _seconds(times: pa.Array) -> NDArray[np.float64]:
    """Seconds since 1970 (n,) of dates or timestamps; NaN for null."""
    zone = times.type.tz if pa.types.is_timestamp(times.type) else None
    microseconds = times.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return _with_nan(microseconds.cast(pa.float64(), safe=False)) / 1e6


def _with_nan(numbers: pa.Array) -> NDArray[np.float64]:
    """A float64 column with NaN for null."""
    return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)
