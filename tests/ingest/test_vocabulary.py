import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import InputError
from ifru_dist.ingest import vocabulary as module
from ifru_dist.ingest.vocabulary import Vocabulary, merge_bucket, write_local_ids

_TEXTS = st.lists(st.text(max_size=3), unique=True, max_size=12).map(lambda ids: pa.array(ids, pa.large_string()))
_NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=12).map(
    lambda ids: pa.array(ids, pa.int64())
)


def _vocabulary(chunks: list[pa.Array], n_buckets: int, folder: Path) -> tuple[Vocabulary, list[np.ndarray]]:
    """A vocabulary of chunks of distinct ids, and the place of each id among those of its chunk."""
    written = [write_local_ids(folder / f"chunk-{index}", ids, n_buckets) for index, ids in enumerate(chunks)]
    locals_ = [local for local, _ in written]
    buckets = tuple(merge_bucket(locals_, bucket, folder / f"bucket-{bucket}") for bucket in range(n_buckets))
    return Vocabulary(buckets), [places for _, places in written]


@given(
    st.one_of(st.lists(_TEXTS, min_size=1, max_size=5), st.lists(_NUMBERS, min_size=1, max_size=5)), st.integers(1, 4)
)
@settings(deadline=None)
def test_codes_mean_the_same_ids_in_all_chunks(chunks: list[pa.Array], n_buckets: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        vocabulary, places = _vocabulary(chunks, n_buckets, Path(name))
        everything = vocabulary.take(np.arange(len(vocabulary)))
        assert sorted(everything.to_pylist()) == sorted({text for ids in chunks for text in ids.to_pylist()})
        for index, ids in enumerate(chunks):
            codes = vocabulary.chunk_codes(index)[places[index]]
            assert codes.dtype == np.int32
            assert everything.take(pa.array(codes)).equals(ids)


def test_some_ids_can_be_taken(tmp_path: Path) -> None:
    vocabulary, _ = _vocabulary([pa.array(range(100))], 7, tmp_path)
    everything = vocabulary.take(np.arange(100))
    assert vocabulary.take(np.array([3, 50, 51, 99])).to_pylist() == [everything[at].as_py() for at in (3, 50, 51, 99)]
    assert vocabulary.take(np.empty(0, np.int64)).equals(pa.array([], pa.int64()))


def test_more_ids_than_a_table_may_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, _ = _vocabulary([pa.array(range(10))], 2, tmp_path)
    monkeypatch.setattr(module, "MAX_ROWS", 9)
    with pytest.raises(InputError, match=r"column user has 10 ids, more than the 9 that a table may hold"):
        vocabulary.check_size("column user")
