"""How well scores order interactions: AUC over all test pairs and over those that an erasure touched."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ifru_dist.interactions import Interactions


def auc(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float | None:
    """Area under the ROC curve of scores (n,) for labels (n,); None where not both labels occur."""
    if len(labels) == 0 or np.ptp(labels) == 0:
        return None
    return float(roc_auc_score(labels, scores))


def touched_aucs(
    scores: NDArray[np.floating], interactions: Interactions, touched_rows: NDArray[np.int64]
) -> dict[str, float | None]:
    """AUC over all interactions, and over those near an erasure.

    Args:
        scores: (n,), of the interactions.
        interactions: n test pairs.
        touched_rows: global rows that lost an interaction, in any order.

    Returns:
        ``auc``, ``auc_or`` (either row touched) and ``auc_and`` (both rows touched); None where not both labels occur.
    """
    masks = touched_masks(interactions, touched_rows)
    return {name: auc(scores[mask], interactions.labels[mask]) for name, mask in masks.items()}


def touched_masks(interactions: Interactions, touched_rows: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Which interactions each AUC is over, (n,): all, those with either row touched, those with both."""
    user, item = np.isin(interactions.pairs, touched_rows).T
    return {"auc": np.ones(len(interactions), dtype=bool), "auc_or": user | item, "auc_and": user & item}
