"""Recovered share: how much of what retraining would win back in AUC a model has won back.

(unlearned - original) / (retrained - original). That says something only where the erased labels were wrong, so that
the original model is worse for having learned them; where they were true, retraining is no better than doing nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.ranking import touched_masks
from ifru_dist.interactions import Interactions

RESAMPLES = 200
"""Bootstrap resamples; 5 of them lie beyond either end of the interval."""
COVERAGE = 0.95

Share = dict[str, float | None]
"""``value`` and the ends of its interval, ``low`` and ``high``."""


class ResampledAuc:
    """AUC of fixed scores under many weights of the pairs, sorted once (scikit-learn would sort for each)."""

    def __init__(self, scores: NDArray[np.floating], labels: NDArray[np.floating]) -> None:
        """Sort scores (n,), with labels (n,) of 0 and 1."""
        self._order = np.argsort(scores, kind="stable")
        self._positive = (labels[self._order] > 0.5).astype(np.float64)
        in_order = scores[self._order]
        self._first = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]])[: len(scores)])

    def __call__(self, weights: NDArray[np.floating]) -> float:
        """AUC with pair i counted weights[i] times, (n,); NaN where one of the labels has no weight."""
        weights = weights[self._order]
        positives = np.add.reduceat(weights * self._positive, self._first)
        negatives = np.add.reduceat(weights, self._first) - positives
        pairs = positives.sum() * negatives.sum()
        below = np.cumsum(negatives) - negatives / 2  # a tie counts half
        return float(positives @ below / pairs) if pairs > 0 else float("nan")


def recovered_shares(
    original: NDArray[np.floating],
    unlearned: NDArray[np.floating],
    retrained: Sequence[NDArray[np.floating]],
    test: Interactions,
    touched_rows: NDArray[np.int64],
    seed: int,
) -> dict[str, Share]:
    """The recovered share of ``auc``, ``auc_or`` and ``auc_and``, with bootstrap intervals (95 %, percentiles).

    The interval is over test pairs, drawn anew for all models alike. All three are None where retraining is not
    better than the original model by more than chance (its interval of retrained - original does not lie above 0): the
    share would be a division by what may be nothing, or a share of a loss.
    It does not hold what other seeds of training would change.

    Args:
        original: scores (n,) of the test pairs.
        unlearned: likewise.
        retrained: R >= 1 of them; their AUCs are averaged.
        test: n pairs.
        touched_rows: global rows that lost an interaction.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    masks = touched_masks(test, touched_rows)
    models = {
        name: [ResampledAuc(scores[mask], test.labels[mask]) for scores in (original, unlearned, *retrained)]
        for name, mask in masks.items()
    }
    aucs: dict[str, list[list[float]]] = {name: [] for name in masks}
    for resample in range(1 + RESAMPLES):
        weights = _draw(generator, len(test)) if resample else np.ones(len(test))
        for name, mask in masks.items():
            inside = weights[mask]
            aucs[name].append([model(inside) for model in models[name]])
    return {name: _share(np.array(values)) for name, values in aucs.items()}


def _draw(generator: np.random.Generator, n: int) -> NDArray[np.float64]:
    """How often each of n pairs (n,) is drawn, n times with replacement."""
    return np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64)


def _share(aucs: NDArray[np.float64]) -> Share:
    """The share from AUCs (1 + resamples, models): first row as it is; original, unlearned, then the retrained ones."""
    won, wanted = aucs[:, 1] - aucs[:, 0], aucs[:, 2:].mean(axis=1) - aucs[:, 0]
    if not wanted[0] > 0:
        return {"value": None, "low": None, "high": None}
    value = float(won[0] / wanted[0])
    drawn = np.isfinite(wanted) & (wanted != 0)  # a draw may hold one label only
    drawn[0] = False
    if not drawn.any() or _interval(wanted[drawn])[0] <= 0:
        return {"value": None, "low": None, "high": None}
    low, high = _interval(won[drawn] / wanted[drawn])
    return {"value": value, "low": low, "high": high}


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentiles between which the middle 95 % of values lie."""
    low, high = np.quantile(values, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return float(low), float(high)
