"""Recovery: how often an erased item comes back among a user's first k recommendations.

Asked of the erased pairs whose label, as trained, was 1. A user's candidates are all items but those that it still has
a training interaction with, and those that are excluded (items that were forgotten wholly).
"""

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.candidates import Candidates, RankedPairs
from ifru_dist.interactions import Interactions
from ifru_dist.models.predict import ItemScores

CUTOFFS = (10, 20, 50)
"""The k that reports hold."""


class Recovery:
    """The pairs that are asked about; every model is asked the same."""

    def __init__(self, erased: Interactions, candidates: Candidates) -> None:
        """Choose the distinct erased pairs with label 1 whose item is a candidate for its user."""
        self._asked = RankedPairs(erased.positives(), candidates)

    @property
    def items(self) -> range:
        """Global rows of the items that a model has to score."""
        return self._asked.items

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The pairs (m, 2), global rows, in ascending order."""
        return self._asked.pairs

    def figures(self, item_scores: ItemScores | None) -> dict[str, float | None]:
        """``recovery_at_<k>``: the share of the pairs whose item is among its user's first k; None without pairs.

        Args:
            item_scores: a model's; None for one that cannot score all items, which has no figures.
        """
        if item_scores is None or len(self.pairs) == 0:
            return {f"recovery_at_{k}": None for k in CUTOFFS}
        places = self._asked.places(item_scores, max(CUTOFFS))
        return {f"recovery_at_{k}": float(places.within(k).mean()) for k in CUTOFFS}
