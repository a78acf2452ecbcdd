"""Which rows go where: one row for each pair, then training, validation and test."""

from math import floor

import numpy as np
from numpy.typing import NDArray


def last_of_pairs(
    users: NDArray[np.int32], items: NDArray[np.int32], times: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Positions (m,), ascending, of each pair's last row: by time where known, among equals the last in order.

    Args:
        users: Code of each row's user (n,).
        items: Code of each row's item (n,).
        times: (n,), or None where rows have no time.
    """
    pairs = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
    order = np.argsort(pairs, kind="stable") if times is None else np.lexsort((times, pairs))
    sorted_pairs = pairs[order]
    is_last = np.zeros(len(order), dtype=bool)
    is_last[order[:-1][sorted_pairs[1:] != sorted_pairs[:-1]]] = True
    is_last[order[-1:]] = True
    return np.flatnonzero(is_last)


def random_split(
    n_rows: int, shares: tuple[float, float, float], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the training, validation and test rows, each in shuffled order.

    The first share of a permutation by ``numpy.random.RandomState(seed)`` trains, the next validates, the rest tests.
    """
    shuffled = np.random.RandomState(seed).permutation(n_rows)
    # Rounding first: 0.7 + 0.1 of 10 rows is 7.999999999999999 in binary.
    stops = [floor(round(n_rows * sum(shares[:part]), 6)) for part in (1, 2)]
    train, valid, test = np.split(shuffled, stops)
    return train, valid, test
