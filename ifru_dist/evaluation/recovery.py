"""Recovery: how often an erased item comes back among a user's first k recommendations.

Asked of the erased pairs whose label, as trained, was 1. A user's candidates are all items but those that it still has
a training interaction with, and those that are excluded (items that were forgotten wholly).

Ties favour nobody: tied candidates are thought of as put in random order, and a pair counts with the probability that
its item then is among the first k. A model that scores everything alike thus reaches k / candidates, not 1.

Shapes: N rows over all tables (users first, then items), d dimensions, m pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ifru_dist.interactions import Interactions

CUTOFFS = (10, 50)
"""The k that reports hold."""
SCORES_AT_ONCE = 1 << 22
"""Scores in memory at a time, 32 MiB; a single user's scores may be more."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Which items may be recommended to which user."""

    kept: NDArray[np.int64]
    """(n, 2), global row pairs of the training interactions that are left."""
    sizes: tuple[int, int]
    """Users and items."""
    excluded_rows: NDArray[np.int64]
    """Global rows, in any order, of users and items that are to be asked nothing about."""


class Recovery:
    """The pairs that are asked about; every model is asked the same."""

    def __init__(self, erased: Interactions, candidates: Candidates) -> None:
        """Choose the distinct erased pairs with label 1 whose item is a candidate for its user."""
        users, items = candidates.sizes
        kept = candidates.kept
        ones = np.ones(len(kept), dtype=bool)
        self._users = users
        self._seen = csr_array((ones, (kept[:, 0], kept[:, 1] - users)), shape=candidates.sizes)
        excluded = candidates.excluded_rows
        self._excluded_items = excluded[excluded >= users] - users
        pairs = np.unique(erased.positives(), axis=0)
        known = np.isin(pairs[:, 0] * items + pairs[:, 1], kept[:, 0] * items + kept[:, 1])
        self.pairs = pairs[~known & ~np.isin(pairs, excluded).any(axis=1)]
        """(m, 2), global rows, in ascending order."""

    def figures(self, outputs: NDArray[np.floating]) -> dict[str, float | None]:
        """``recovery_at_<k>``: the share of the pairs whose item is among its user's first k; None without pairs.

        Args:
            outputs: (N, d), a model's embeddings after propagation; the score of a pair is their dot product.
        """
        higher, tied = self.places(outputs)
        return {
            f"recovery_at_{k}": float(np.clip((k - higher) / tied, 0.0, 1.0).mean()) if len(tied) else None
            for k in CUTOFFS
        }

    def places(self, outputs: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each pair, how many candidates score higher (m,), and how many score the same, itself included (m,).

        Scores are float64 and are formed for some pairs' users at a time, so memory does not grow with m.
        """
        items = outputs[self._users :].astype(np.float64)
        higher, tied = np.empty(len(self.pairs), np.int64), np.empty(len(self.pairs), np.int64)
        at_once = max(1, SCORES_AT_ONCE // max(1, len(items)))
        for start in range(0, len(self.pairs), at_once):
            users, asked = self.pairs[start : start + at_once].T
            scores = outputs[users].astype(np.float64) @ items.T
            scores[self._seen[users].nonzero()] = -np.inf
            scores[:, self._excluded_items] = -np.inf
            own = scores[np.arange(len(users)), asked - self._users, np.newaxis]
            higher[start : start + at_once] = (scores > own).sum(axis=1)
            tied[start : start + at_once] = (scores == own).sum(axis=1)
        return higher, tied
