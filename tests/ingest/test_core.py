from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.ingest.core import k_core


def _naive(pairs: list[tuple[int, int]], k: int) -> list[int]:
    """Drop one row at a time until no row has to go."""
    kept = list(range(len(pairs)))
    while True:
        for position in kept:
            user, item = pairs[position]
            counts = sum(pairs[p][0] == user for p in kept), sum(pairs[p][1] == item for p in kept)
            if min(counts) < k:
                kept.remove(position)
                break
        else:
            return kept


def _core(users: Sequence[int], items: Sequence[int], k: int, bucket_rows: int) -> list[int]:
    """Positions of the rows that are left, of rows in buckets of some size."""
    columns = np.array(users, np.int32), np.array(items, np.int32)
    parts = [slice(start, start + bucket_rows) for start in range(0, len(users), bucket_rows)]
    buckets = [lambda part=part: (columns[0][part], columns[1][part]) for part in parts]
    core = k_core(buckets, max(users, default=-1) + 1, max(items, default=-1) + 1, k)
    masks = [core.mask(index, len(columns[0][part])) for index, part in enumerate(parts)]
    left = np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *masks]))
    assert core.user_counts.tolist() == np.bincount(columns[0][left], minlength=len(core.user_counts)).tolist()
    assert core.item_counts.tolist() == np.bincount(columns[1][left], minlength=len(core.item_counts)).tolist()
    assert core.n_rows == len(left)
    return left.tolist()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 4), st.integers(1, 41))
def test_the_core_is_what_a_naive_search_leaves(pairs: list[tuple[int, int]], k: int, bucket_rows: int) -> None:
    users, items = [user for user, _ in pairs], [item for _, item in pairs]
    assert _core(users, items, k, bucket_rows) == _naive(pairs, k)


@pytest.mark.parametrize("bucket_rows", [1, 7, 1000])
def test_a_chain_unravels_from_its_end(bucket_rows: int) -> None:
    users, items = np.repeat(np.arange(50), 2)[1:], np.repeat(np.arange(50), 2)[:-1]
    assert _core(users.tolist(), items.tolist(), 2, bucket_rows) == []
