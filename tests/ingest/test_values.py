from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.ingest.values import NoWholeNumberError, as_numbers, as_times, is_missing, plain_columns

_NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 2**62 + 1]), [1, _NAN, 2.0**62]),
        (pa.array([1.5, _NAN, float("inf"), None], pa.float32()), [1.5, _NAN, float("inf"), _NAN]),
        (pa.array([True, None, False]), [1, _NAN, 0]),
        (pa.array([Decimal("1.25"), None]), [1.25, _NAN]),
        (pa.array(["5", " 5.5 ", "-.5", "+1e2", "7."]), [5, 5.5, -0.5, 100, 7]),
        (pa.array(["", "x", "nan", "inf", "0x1A", "1 2", "1e", "٣", None]), [_NAN] * 9),
        (pa.array(["1e999"]), [float("inf")]),
    ],
)
def test_numbers_of_many_types(column: pa.Array, expected: list[float]) -> None:
    np.testing.assert_array_equal(as_numbers(column), expected)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_survive_as_text(values: list[float]) -> None:
    np.testing.assert_array_equal(as_numbers(pa.array([repr(value) for value in values], pa.large_string())), values)


def test_times_of_many_types_are_seconds() -> None:
    moment = datetime(1970, 1, 2, 0, 0, 1, 500_000)
    day = 86_400.0
    text = ["1970-01-02", "1970-01-02T01:00:00+01:00", "1970-01-02 00:00:01.5", "12.5", "yesterday", "", None]
    for column, expected in (
        (pa.array([moment, None], pa.timestamp("ns")), [day + 1.5, _NAN]),
        (pa.array([moment], pa.timestamp("ms", "UTC")), [day + 1.5]),
        (pa.array([date(1970, 1, 2)]), [day]),
        (pa.array([date(1970, 1, 2)], pa.date64()), [day]),
        (pa.array([5, None]), [5, _NAN]),
        (pa.array(text, pa.large_string()), [day, day, day + 1.5, 12.5, _NAN, _NAN, _NAN]),
    ):
        np.testing.assert_array_equal(as_times(column), expected)


def test_missing_ids_are_null_or_white_space() -> None:
    assert is_missing(pa.array([0, None])).tolist() == [False, True]
    assert is_missing(pa.array(["a", "", " \t", None, "null"])).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(("kind", "bound"), [(pa.float64(), 2**53), (pa.float32(), 2**24)])
def test_whole_floats_are_integer_ids_up_to_where_they_are_exact(kind: pa.DataType, bound: int) -> None:
    def ids(*values: float | None) -> pa.Array:
        return plain_columns(pa.record_batch({"user": pa.array(values, kind)}))["user"]

    assert ids(7.0, None, _NAN, -0.0, bound, -bound).equals(pa.array([7, None, None, 0, bound, -bound]))
    assert ids(None).equals(pa.array([None], pa.int64()))
    for wrong in (7.5, float("inf"), bound * 2.0):
        with pytest.raises(NoWholeNumberError, match="user"):
            ids(1.0, wrong)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_of_any_type_becomes_large_string(kind: pa.DataType) -> None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["a", None]).cast(kind), pa.array([1, 2], pa.uint8())], ["item", "user"]
    )
    plain = plain_columns(batch)
    assert plain["item"].equals(pa.array(["a", None], pa.large_string()))
    assert plain["user"].equals(pa.array([1, 2], pa.int64()))
