import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.ingest.identifiers import integers_if_canonical, training_table, unify, written_as_floats


@given(st.lists(st.lists(st.text(max_size=2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_unified_codes_mean_the_same_ids(chunks: list[list[str]]) -> None:
    encoded = [pa.chunked_array([pa.array(chunk, pa.large_string()).dictionary_encode()]) for chunk in chunks]
    coded = unify(encoded)
    assert coded.ids.take(pa.array(coded.codes)).to_pylist() == [text for chunk in chunks for text in chunk]
    assert len(set(coded.ids.to_pylist())) == len(coded.ids)
    assert coded.codes.dtype == np.int32


def test_a_table_holds_the_training_ids_in_order_and_knows_the_others() -> None:
    ids = pa.array([30, 10, 20, -5])
    names, row_of_code = training_table(ids, np.array([0, 3, 0, 1], np.int32), from_text=False)
    assert names.equals(pa.array([-5, 10, 30]))
    assert row_of_code.tolist() == [2, 1, -1, 0]


def test_text_sorts_as_numbers_only_where_all_training_ids_are_canonical() -> None:
    ids = pa.array(["10", "9", "09"], pa.large_string())
    assert training_table(ids, np.array([0, 1], np.int32), from_text=True)[0].equals(pa.array([9, 10]))
    assert training_table(ids, np.array([0, 1, 2], np.int32), from_text=True)[0].to_pylist() == ["09", "10", "9"]
    assert training_table(ids, np.array([0, 1], np.int32), from_text=False)[0].to_pylist() == ["10", "9"]


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
