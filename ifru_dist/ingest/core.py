"""The k-core of a bipartite graph: what is left when users and items with few rows go, again and again.

Only the counts of users and items, and a bit for each row, are in memory; the rows are read again in each pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.ingest.loops import Codes, count_into, drop_rare

Bucket = Callable[[], tuple[Codes, Codes]]
"""Reads the codes of users and of items (n,) of some rows, the same ones each time."""


@dataclass(frozen=True)
class Core:
    """The rows that are left."""

    kept: list[NDArray[np.uint8]]
    """Of each bucket a bit for each row, as ``np.packbits`` packs them."""
    user_counts: NDArray[np.int64]
    """Rows that are left of each user (users,)."""
    item_counts: NDArray[np.int64]
    """Rows that are left of each item (items,)."""

    @property
    def n_rows(self) -> int:
        """Rows that are left."""
        return int(self.user_counts.sum())

    def mask(self, bucket: int, n_rows: int) -> NDArray[np.bool_]:
        """Mask (n_rows,) of the rows of a bucket that are left."""
        return np.unpackbits(self.kept[bucket], count=n_rows).view(np.bool_)


def k_core(buckets: Sequence[Bucket], n_users: int, n_items: int, k: int) -> Core:
    """Keep the rows whose user and item both keep at least k rows.

    The core is the largest such set, so the order in which rows are looked at does not matter.

    Args:
        buckets: The rows.
        n_users: Codes of users.
        n_items: Codes of items.
        k: Least number of rows; 1 keeps all.
    """
    core = Core([], np.zeros(n_users, np.int64), np.zeros(n_items, np.int64))
    for bucket in buckets:
        users, items = bucket()
        count_into(users, core.user_counts)
        count_into(items, core.item_counts)
        core.kept.append(np.packbits(np.ones(len(users), np.bool_)))
    while k > 1 and _pass(core, buckets, k):
        pass
    return core


def _pass(core: Core, buckets: Sequence[Bucket], k: int) -> bool:
    """Go through all rows once; returns whether any was dropped."""
    dropped = 0
    for index, bucket in enumerate(buckets):
        users, items = bucket()
        alive = core.mask(index, len(users))
        if gone := drop_rare(users, items, alive, core.user_counts, core.item_counts, k):
            core.kept[index] = np.packbits(alive)
            dropped += gone
    return dropped > 0
