import numpy as np
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


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 4))
def test_the_core_is_what_a_naive_search_leaves(pairs: list[tuple[int, int]], k: int) -> None:
    users, items = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    assert k_core(users, items, k).tolist() == _naive(pairs, k)


def test_a_chain_unravels_from_its_end() -> None:
    users = np.repeat(np.arange(50, dtype=np.int32), 2)[1:]
    items = np.repeat(np.arange(50, dtype=np.int32), 2)[:-1]
    assert len(k_core(users, items, 2)) == 0
