"""What "forgotten" is measured by: a model beside doing nothing and beside retraining.

The reference is retraining from scratch with the same trainer, R times with different seeds; the reference prediction
is the mean of their scores. Doing nothing is the original model, measured like any other; what retraining itself
reaches is, for gaps, the *noise floor*: one retraining against the mean of the others. A figure that doing nothing also
reaches proves nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.ranking import auc

Scores = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """One model's scores (logits) of the erased and of the test pairs."""

    erased: Scores
    """(n_erased,)"""
    test: Scores
    """(n_test,)"""


@dataclass(frozen=True, kw_only=True)
class HeldLabels:
    """Labels of the erased and of the test pairs, and which test pairs the erasure touched."""

    erased: NDArray[np.floating]
    """(n_erased,), as the original model was trained on them."""
    test: NDArray[np.floating]
    """(n_test,)"""
    test_touched: NDArray[np.bool_]
    """(n_test,): either row of the pair lost an interaction."""
    loss: str = "bce"
    """By which the models were trained: ``bce``, ``squared`` or ``bpr``."""


def forgetting_figures(
    scores: PairScores, reference: Sequence[PairScores], labels: HeldLabels
) -> dict[str, float | None]:
    """The figures of one model; each is None where there are no pairs for it.

    - ``logit_gap_erased``, ``logit_gap_test``: mean |score - reference score|; None without a reference.
    - ``membership_auc``: how well a loss threshold tells erased pairs from touched test pairs.
    - ``logloss_erased``: mean log loss of the erased pairs; None unless the scores are logits, as with ``bce``.

    Args:
        scores: of the model.
        reference: retrainings, whose mean is the reference prediction.
        labels: of the same pairs, in the same order.
    """
    return {
        "logit_gap_erased": logit_gap(scores.erased, [other.erased for other in reference]),
        "logit_gap_test": logit_gap(scores.test, [other.test for other in reference]),
        "membership_auc": membership_auc(scores, labels),
        "logloss_erased": logloss(scores.erased, labels.erased, labels.loss),
    }


def retrained_figures(retrained: Sequence[PairScores], labels: HeldLabels) -> list[dict[str, float | None]]:
    """The figures of each retraining, measured against the mean of the others.

    The mean of their gaps is the noise floor: closer to the reference than that is no better. It is a little too high:
    a retraining is measured against the mean of R - 1 others, a model against the mean of all R, which varies less. A
    model that is one more retraining would have a gap smaller by sqrt(R^2 / (R^2 - 1)): 6 % with R = 3, 15 % with 2.
    """
    return [
        forgetting_figures(scores, [other for other in retrained if other is not scores], labels)
        for scores in retrained
    ]


def mean_and_spread(
    figures: Sequence[Mapping[str, float | None]],
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Mean and sample standard deviation (n - 1) of each figure over R >= 1 models that share their keys.

    Both are None where one of the models lacks the figure, the deviation also for a single model.
    """
    columns = {name: [model[name] for model in figures] for name in figures[0]}
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    whole = {name: values for name, values in known.items() if len(values) == len(figures)}
    mean = {name: float(np.mean(whole[name])) if name in whole else None for name in columns}
    spread = {
        name: float(np.std(whole[name], ddof=1)) if name in whole and len(figures) > 1 else None for name in columns
    }
    return mean, spread


def logit_gap(scores: Scores, reference: Sequence[Scores]) -> float | None:
    """Mean |scores - mean of the reference scores| over pairs (n,); None without pairs or without a reference."""
    if len(scores) == 0 or len(reference) == 0:
        return None
    return float(np.abs(scores.astype(np.float64) - np.mean(reference, axis=0, dtype=np.float64)).mean())


def membership_auc(scores: PairScores, labels: HeldLabels) -> float | None:
    """AUC of telling erased pairs from touched test pairs by their loss, a low loss being the sign of a member.

    0.5 means that the erased pairs look like pairs never trained on; None where one of the two sets is empty.
    """
    touched = labels.test_touched
    erased = _losses(scores.erased, labels.erased, labels.loss)
    losses = np.concatenate([erased, _losses(scores.test[touched], labels.test[touched], labels.loss)])
    member = np.arange(len(losses)) < len(erased)
    return auc(-losses, member.astype(np.float64))


def logloss(scores: Scores, labels: NDArray[np.floating], loss: str = "bce") -> float | None:
    """Mean negative log-likelihood of labels (n,) under sigmoid(scores).

    None without pairs, and for a model that was trained with another loss: its scores are no logits.
    """
    if len(scores) == 0 or loss != "bce":
        return None
    return float(_losses(scores, labels, loss).mean())


def _losses(scores: Scores, labels: NDArray[np.floating], loss: str) -> NDArray[np.float64]:
    """How badly each pair (n,) is predicted.

    With bpr, which compares a positive with negatives, that is the log loss of positives alone (m <= n): the higher it
    scores the better, and pairs with the label 0 are never trained on.
    """
    scores = scores.astype(np.float64)
    if loss == "squared":
        return np.asarray(0.5 * np.square(scores - labels))
    if loss == "bpr":
        scores, labels = scores[labels > 0.5], labels[labels > 0.5]
    return np.logaddexp(0.0, np.where(labels > 0.5, -1.0, 1.0) * scores)
