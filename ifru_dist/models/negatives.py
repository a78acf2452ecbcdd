"""Negative items for positive pairs, by a hash of seed, draw and example: whoever asks gets the same ones.

A draw does not depend on which other examples are asked for, so any worker can draw for its own, and an erased example
takes its own negatives with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ATTEMPTS = 64
"""A user who has so many draws in a row among its own items keeps the last one: it has nearly every item."""


@dataclass(frozen=True, kw_only=True)
class TrainingTuples:
    """Positives, each once for every negative that was drawn for it; all have the label 1."""

    rows: NDArray[np.int64]
    """(n * draws, fields + 1): the rows of a positive and its negative item, a positive's draws one after the other."""
    examples: NDArray[np.int64]
    """(n * draws,): id of the positive."""
    weights: NDArray[np.float32]
    """(n * draws,): 1 / draws, so that a positive counts once."""


class Negatives:
    """Uniform draws from the items that a user has no positive with."""

    def __init__(
        self, positives: NDArray[np.int64], items: range, seed: int, forgotten: NDArray[np.int64] | None = None
    ) -> None:
        """Remember what is no negative.

        Args:
            positives: (m, 2), pairs of global rows.
            items: global rows of the items.
            seed: of all draws.
            forgotten: global rows that are drawn for nobody.
        """
        self._items, self._seed = items, seed
        self._gone = np.zeros(len(items), dtype=bool)
        if forgotten is not None:
            self._gone[forgotten[(forgotten >= items.start) & (forgotten < items.stop)] - items.start] = True
        self._known = np.unique(self._keys(positives[:, 0], positives[:, 1]))

    def draw(self, users: NDArray[np.int64], examples: NDArray[np.int64], draw: int) -> NDArray[np.int64]:
        """One negative item (n,), a global row, for each user (n,) and example id (n,); ``draw`` counts the draws."""
        items, open_ = np.empty(len(users), np.int64), np.arange(len(users))
        for attempt in range(_ATTEMPTS):
            key = _mixed(np.uint64(self._seed), np.uint64(draw), np.uint64(attempt), examples[open_].astype(np.uint64))
            items[open_] = self._items.start + (key % np.uint64(len(self._items))).astype(np.int64)
            open_ = open_[self._is_known(users[open_], items[open_])]
            if len(open_) == 0:
                break
        return items

    def tuples(self, rows: NDArray[np.int64], examples: NDArray[np.int64], draws: range) -> TrainingTuples:
        """What positives are trained as; the objective that unlearning minimises has the draws 0 .. negatives - 1.

        Args:
            rows: (n, fields), of the positives, the user's first.
            examples: (n,), their ids.
            draws: numbers of the draws, one tuple each.
        """
        items = np.stack([self.draw(rows[:, 0], examples, number) for number in draws], axis=1)
        repeated = np.repeat(rows, len(draws), axis=0)
        return TrainingTuples(
            rows=np.concatenate([repeated, items.reshape(-1, 1)], axis=1),
            examples=np.repeat(examples, len(draws)),
            weights=np.full(len(repeated), 1 / len(draws), np.float32),
        )

    def _is_known(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether pairs (n,) are positives, or their items forgotten."""
        gone = self._gone[items - self._items.start]
        if len(self._known) == 0:
            return gone
        keys = self._keys(users, items)
        place = np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)
        return np.asarray(gone | (self._known[place] == keys))

    def _keys(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number for each pair."""
        return users * len(self._items) + items - self._items.start


def _mixed(*parts: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """A hash (n,) of numbers: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014) over each in turn."""
    state: NDArray[np.uint64] | np.uint64 = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ part) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)
