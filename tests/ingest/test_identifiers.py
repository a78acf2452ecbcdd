import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.ingest.identifiers import integers_if_canonical, training_table, written_as_floats


def test_a_table_holds_ids_in_order_and_the_code_of_each() -> None:
    names, codes = training_table(pa.array([30, 10, -5]), np.array([0, 1, 3]), from_text=False)
    assert names.equals(pa.array([-5, 10, 30]))
    assert codes.tolist() == [3, 1, 0]


def test_text_sorts_as_numbers_only_where_all_ids_are_canonical() -> None:
    ids, codes = pa.array(["10", "9", "09"], pa.large_string()), np.arange(3)
    assert training_table(ids[:2], codes[:2], from_text=True)[0].equals(pa.array([9, 10]))
    assert training_table(ids, codes, from_text=True)[0].to_pylist() == ["09", "10", "9"]
    assert training_table(ids[:2], codes[:2], from_text=False)[0].to_pylist() == ["10", "9"]


@pytest.mark.parametrize("text", ["0012", "+1", "-0", "1.0", " 1", "1_0", "\u0661", "9223372036854775808", ""])
def test_text_that_would_lose_its_spelling_stays_text(text: str) -> None:
    ids = pa.array(["7", text], pa.large_string())
    assert integers_if_canonical(ids).equals(ids)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["12.0", "0.0", "-3.0"], True),
        (["12", "13.0"], True),
        (["12", "13"], False),
        (["12.0", "1.1"], False),
        (["12.0", "a.0"], False),
        (["012.0"], False),
        (["12.00"], False),
        ([], False),
    ],
)
def test_integers_that_were_written_as_floats_are_told_from_other_texts(texts: list[str], expected: bool) -> None:
    assert written_as_floats(pa.array(texts, pa.large_string())) is expected
    assert not written_as_floats(pa.array([12]))


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_the_text_of_an_int64_is_canonical(values: list[int]) -> None:
    text = pa.array([str(value) for value in values], pa.large_string())
    assert integers_if_canonical(text).equals(pa.array(values, pa.int64()))
