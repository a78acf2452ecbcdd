"""Sorting by small whole numbers: counting, which takes one pass over the rows and keeps their order among equals."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_COMPILE: dict[str, Any] = {"cache": True, "nogil": True}


def stable_order(keys: NDArray[np.integer], n_keys: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of rows sorted by key, in their order among equals, and where each key begins among them.

    Args:
        keys: (n,), each in range(n_keys).
        n_keys: Number of keys there may be; as much memory is needed for it as for rows.

    Returns:
        Positions (n,), and bounds (n_keys + 1,).
    """
    bounds = np.zeros(n_keys + 1, dtype=np.int64)
    order = np.empty(len(keys), dtype=np.int64)
    _count_and_place(keys, bounds, order)
    return order, bounds


@njit(**_COMPILE)
def _count_and_place(keys: NDArray[np.integer], bounds: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Fill ``bounds``, which come as zeros, and ``order``."""
    for row in range(len(keys)):
        bounds[keys[row] + 1] += 1
    for key in range(1, len(bounds)):
        bounds[key] += bounds[key - 1]
    free = bounds[:-1].copy()
    for row in range(len(keys)):
        order[free[keys[row]]] = row
        free[keys[row]] += 1
