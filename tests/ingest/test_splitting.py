import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.ingest.splitting import last_of_pairs, random_split

_ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=30)


@given(_ROWS, st.booleans())
def test_the_last_row_of_a_pair_stays(rows: list[tuple[int, int, int]], timed: bool) -> None:
    users, items, times = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for position, (user, item, time) in enumerate(rows):
        latest[user, item] = max(latest.get((user, item), (-1, -1)), (time if timed else 0, position))
    expected = sorted(position for _, position in latest.values())
    assert last_of_pairs(users, items, times.astype(float) if timed else None).tolist() == expected


def test_pairs_of_many_ids_do_not_collide() -> None:
    users = np.array([2_000_000_000, 0], np.int32)
    items = np.array([0, 2_000_000_000], np.int32)
    assert last_of_pairs(users, items, None).tolist() == [0, 1]


def test_a_split_is_a_cut_of_numpy_s_permutation() -> None:
    train, valid, test = random_split(10, (0.6, 0.2, 0.2), seed=1024)
    expected = np.random.RandomState(1024).permutation(10)
    assert (train.tolist(), valid.tolist(), test.tolist()) == (
        expected[:6].tolist(),
        expected[6:8].tolist(),
        expected[8:].tolist(),
    )


@pytest.mark.parametrize(
    ("n_rows", "shares", "sizes"),
    [
        (10, (0.7, 0.1, 0.2), (7, 1, 2)),
        (585_579, (0.6, 0.2, 0.2), (351_347, 117_116, 117_116)),
        (5, (1.0, 0.0, 0.0), (5, 0, 0)),
        (3, (0.34, 0.0, 0.66), (1, 0, 2)),
        (0, (0.6, 0.2, 0.2), (0, 0, 0)),
    ],
)
def test_sizes_of_the_parts(n_rows: int, shares: tuple[float, float, float], sizes: tuple[int, int, int]) -> None:
    assert tuple(len(part) for part in random_split(n_rows, shares, seed=0)) == sizes
