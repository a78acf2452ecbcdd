"""What is told of a library's error: its reason, without values of the data."""

import io

import pyarrow as pa
import pyarrow.csv
import pytest

from ifru_dist.errors import reason_of


def _reason(data: bytes, **types: pa.DataType) -> str:
    """The reason for which Arrow does not read a CSV file."""
    with pytest.raises(pa.ArrowException) as caught:
        pa.csv.read_csv(io.BytesIO(data), convert_options=pa.csv.ConvertOptions(column_types=types))
    return reason_of(caught.value)


def test_the_text_of_a_row_is_not_told() -> None:
    reason = _reason(b"user,item\n1,2\nann,bob,cy\n")
    assert "Expected 2 columns, got 3" in reason
    assert not any(name in reason for name in ("ann", "bob", "cy"))


@pytest.mark.parametrize("name", ["ann", "o'brien", 'the "king"', "x: y"])
def test_the_text_of_a_cell_is_not_told(name: str) -> None:
    quoted = name.replace('"', '""')
    reason = _reason(f'user,item\n"{quoted}",2\n'.encode(), user=pa.int64())
    assert "conversion error to int64" in reason
    assert not any(word in reason for word in name.replace('"', "").replace(":", "").split())


def test_an_integer_out_of_range_is_not_told() -> None:
    with pytest.raises(pa.ArrowInvalid) as caught:
        pa.array([2**64 - 5], pa.uint64()).cast(pa.int64())
    assert "18446744073709551611" in str(caught.value)
    assert "18446744073709551611" not in reason_of(caught.value)


def test_bytes_that_are_no_text_are_told_as_that() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"ann\xff".decode()
    assert reason_of(caught.value) == "text that is no valid Unicode"


def test_a_reason_is_one_line_of_limited_length_and_never_empty() -> None:
    assert reason_of(ValueError("a\n  b")) == "a b"
    assert len(reason_of(ValueError("x" * 5000))) == 200
    assert reason_of(MemoryError()) == "MemoryError"
    assert reason_of(ValueError("it has more than one column 'user'")) == "it has more than one column 'user'"
