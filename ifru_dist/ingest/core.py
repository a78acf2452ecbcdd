"""The k-core of a bipartite graph: what is left when users and items with few rows go, again and again."""

import numpy as np
from numpy.typing import NDArray


def k_core(users: NDArray[np.int32], items: NDArray[np.int32], k: int) -> NDArray[np.int64]:
    """Positions (m,), ascending, of the rows whose user and item both keep at least k rows.

    Args:
        users: Code of each row's user (n,).
        items: Code of each row's item (n,).
        k: Least number of rows; 1 keeps all.
    """
    kept = np.arange(len(users), dtype=np.int64)
    while True:
        enough = _frequent(users[kept], k) & _frequent(items[kept], k)
        if enough.all():
            return kept
        kept = kept[enough]


def _frequent(codes: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """Mask (n,) of the rows whose code occurs at least k times."""
    return np.bincount(codes)[codes] >= k
