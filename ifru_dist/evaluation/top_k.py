"""How good a user's first k recommendations are: recall and NDCG, as recommenders of positives are compared by.

Asked of held-out pairs with label 1. A user's candidates are all items but its training positives.
"""

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.candidates import Candidates, RankedPairs
from ifru_dist.interactions import Interactions
from ifru_dist.models.predict import ItemScores

CUTOFF = 20
"""The k that reports hold."""


class TopK:
    """The pairs that are asked about; every model is asked the same."""

    def __init__(self, held_out: Interactions, candidates: Candidates, most_users: int | None = None) -> None:
        """Choose the distinct pairs with label 1 whose item is a candidate for its user.

        Args:
            held_out: pairs, with labels.
            candidates: says which items are any user's.
            most_users: ask about the pairs of so many users at most, always the same ones; None: of all.
        """
        pairs = held_out.positives()
        users = np.unique(pairs[:, 0])
        if most_users is not None and len(users) > most_users:
            pairs = pairs[np.isin(pairs[:, 0], np.random.default_rng(0).choice(users, most_users, replace=False))]
        self._asked = RankedPairs(pairs, candidates)
        self._counts = np.unique(self._asked.pairs[:, 0], return_counts=True)[1]

    @property
    def items(self) -> range:
        """Global rows of the items that a model has to score."""
        return self._asked.items

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The pairs (m, 2), global rows, in ascending order."""
        return self._asked.pairs

    @property
    def users(self) -> int:
        """Number of users with pairs."""
        return len(self._counts)

    def figures(self, item_scores: ItemScores | None) -> dict[str, float | None]:
        """``recall_at_20`` and ``ndcg_at_20``, means over the users who have pairs; None without pairs.

        - Recall: the share of a user's pairs whose item is among its first 20.
        - NDCG: the sum of 1 / log2(place + 1) over these, places counted from 1, over that of the best ranking
          (Jaervelin and Kekaelaeinen, 2002).

        Args:
            item_scores: a model's; None for one that cannot score all items, which has no figures.
        """
        names = f"recall_at_{CUTOFF}", f"ndcg_at_{CUTOFF}"
        if item_scores is None or self.users == 0:
            return dict.fromkeys(names)
        places = self._asked.places(item_scores, CUTOFF)
        gains = 1 / np.log2(np.arange(CUTOFF) + 2)
        best = np.cumsum(gains)[np.minimum(self._counts, CUTOFF) - 1]
        recall, ndcg = self._sums(places.within(CUTOFF)) / self._counts, self._sums(places.gain(gains)) / best
        return {names[0]: float(recall.mean()), names[1]: float(ndcg.mean())}

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the pairs of each user, (users,); pairs lie user by user."""
        starts = np.concatenate([[0], np.cumsum(self._counts[:-1])])
        return np.asarray(np.add.reduceat(values, starts))
