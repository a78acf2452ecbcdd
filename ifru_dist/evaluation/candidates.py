"""Where items stand among a user's candidates: what recovery and the top-k figures are counted from.

Ties favour nobody: tied candidates are thought of as put in random order, and a figure is its mean over all orders. A
model that scores everything alike thus finds an item among the first k of c candidates with the chance k / c, not 1.

Shapes: m pairs, N rows over all tables (users first, then items).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ifru_dist.models.predict import ItemScores

SCORES_AT_ONCE = 1 << 22
"""Scores in memory at a time, 32 MiB; a single user's scores may be more."""

BEHIND = 1 << 62
"""A place beyond all that are asked about."""


def log_ranks(item_scores: ItemScores, pairs: NDArray[np.int64], items: range) -> NDArray[np.float64]:
    """log(1 + items that score higher) for each pair (m, 2) of global rows, (m,); tied items count half.

    Args:
        item_scores: scores users with all items.
        pairs: in any order, also the same ones twice.
        items: global rows of all items.
    """
    users, which = np.unique(pairs[:, 0], return_inverse=True)
    higher, order = np.zeros(len(pairs)), np.argsort(which, kind="stable")
    at_once = max(1, SCORES_AT_ONCE // max(1, len(items)))
    bounds = np.searchsorted(which[order], np.arange(0, len(users) + at_once, at_once))
    for number, (start, stop) in enumerate(pairwise(bounds)):
        first, chosen = number * at_once, order[start:stop]
        scores = item_scores(users[first : first + at_once])
        for place in chosen:
            theirs = scores[which[place] - first]
            own = theirs[pairs[place, 1] - items.start]
            higher[place] = (theirs > own).sum() + ((theirs == own).sum() - 1) / 2
    return np.log1p(higher)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Which items may be recommended to which user: all but some."""

    known: NDArray[np.int64]
    """(n, 2), global row pairs: a user is recommended no item that it is paired with here."""
    sizes: tuple[int, int]
    """Users and items."""
    excluded_rows: NDArray[np.int64]
    """Global rows, in any order, of users and items that are to be asked nothing about."""

    @property
    def items(self) -> range:
        """Global rows of all items."""
        return range(self.sizes[0], sum(self.sizes))


@dataclass(frozen=True)
class Places:
    """Where pairs (m,) stand among their users' candidates, as far as the first ``depth`` places are concerned."""

    higher: NDArray[np.int64]
    """(m,): candidates that score higher; where it is not among the first ``depth``, BEHIND."""
    tied: NDArray[np.int64]
    """(m,): candidates that score the same, the pair's item included; 1 where that was not counted."""

    def within(self, k: int) -> NDArray[np.float64]:
        """Chance of each item (m,) to be among the first k; k is at most the depth."""
        return self.gain(np.ones(k))

    def gain(self, gains: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean gain of each item (m,), where a place is worth gains[place] (k,) and those behind nothing."""
        total = np.concatenate([[0.0], np.cumsum(gains)])
        first, last = (np.minimum(place, len(gains)) for place in (self.higher, self.higher + self.tied))
        return np.asarray((total[last] - total[first]) / self.tied)


class RankedPairs:
    """Pairs whose place is asked for; every model is asked for the same ones."""

    def __init__(self, pairs: NDArray[np.int64], candidates: Candidates) -> None:
        """Choose the distinct pairs (any, 2), global rows, whose item is a candidate for its user."""
        users, items = candidates.sizes
        known, excluded = candidates.known, candidates.excluded_rows
        ones = np.ones(len(known), dtype=bool)
        self.items = candidates.items
        """Global rows of all items, those that are no candidates included."""
        self._known = csr_array((ones, (known[:, 0], known[:, 1] - users)), shape=candidates.sizes)
        self._excluded_items = excluded[np.isin(excluded, self.items)] - users
        pairs = np.unique(pairs, axis=0)
        is_known = np.isin(pairs[:, 0] * items + pairs[:, 1], known[:, 0] * items + known[:, 1])
        self.pairs = pairs[~is_known & ~np.isin(pairs, excluded).any(axis=1)]
        """(m, 2), global rows, in ascending order."""

    def places(self, item_scores: ItemScores, depth: int) -> Places:
        """Where the pairs stand.

        Scores are formed for some users at a time, so memory does not grow with m.

        Args:
            item_scores: scores users with all items.
            depth: how many of the first places matter.
        """
        users, first, asked = np.unique(self.pairs[:, 0], return_index=True, return_counts=True)
        depth, bounds = min(depth, len(self.items)), np.append(first, len(self.pairs))
        parts = [Places(np.empty(0, np.int64), np.empty(0, np.int64))]
        at_once = max(1, SCORES_AT_ONCE // max(1, len(self.items)))
        for start in range(0, len(users), at_once):
            chunk = users[start : start + at_once]
            scores = item_scores(chunk)
            scores[self._known[chunk].nonzero()] = -np.inf
            scores[:, self._excluded_items] = -np.inf
            row = np.repeat(np.arange(len(chunk)), asked[start : start + at_once])
            items = self.pairs[bounds[start] : bounds[start + len(chunk)], 1] - self.items.start
            parts.append(_places(scores, row, items, depth))
        return Places(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("higher", "tied")))


def _places(scores: NDArray[np.float64], row: NDArray[np.int64], column: NDArray[np.int64], depth: int) -> Places:
    """Where entries (row, column) (p,) of scores (users, items) stand in their rows.

    An entry below the first ``depth`` needs no counting; of the others only those that are tied with the last of these
    need all of their row.
    """
    first = torch.topk(torch.from_numpy(scores), depth, dim=1).values.numpy()[row]
    own = scores[row, column]
    higher, tied = ((compare(first, own[:, None])).sum(axis=1) for compare in (np.greater, np.equal))
    below = ~(own >= first[:, -1])  # whatever is not a number is below, too
    at_end = np.flatnonzero(own == first[:, -1])
    for entry in at_end:
        tied[entry] = (scores[row[entry]] == own[entry]).sum()
    return Places(np.where(below, BEHIND, higher), np.where(below, 1, tied))
