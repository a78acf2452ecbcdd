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

from ifru_dist.errors import InputError
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


def forgetting_figures(
    models: Mapping[str, PairScores], retrained: Sequence[PairScores], labels: HeldLabels
) -> dict[str, dict[str, float | None]]:
    """The figures of each model, by its name, and those of ``retrained``.

    - ``logit_gap_erased``, ``logit_gap_test``: mean |score - reference score|; of ``retrained`` the noise floor.
    - ``membership_auc``: how well a loss threshold tells erased pairs from touched test pairs.
    - ``logloss_erased``: mean loss of the erased pairs.

    The last two of ``retrained`` are means over the retrainings. Figures that do not exist (no pairs, or the noise
    floor of a single retraining) are None.

    Args:
        models: such as the original and the unlearned one.
        retrained: R >= 1 retrainings.
        labels: of the same pairs, in the same order.

    Raises:
        InputError: no retrained model is given.
    """
    if not retrained:
        raise InputError(
            "forgetting is measured against retraining, but 0 retrained models are given: train at least 1"
        )
    erased, test = [scores.erased for scores in retrained], [scores.test for scores in retrained]
    figures = {
        name: {
            "logit_gap_erased": logit_gap(scores.erased, np.mean(erased, axis=0)),
            "logit_gap_test": logit_gap(scores.test, np.mean(test, axis=0)),
            "membership_auc": membership_auc(scores, labels),
            "logloss_erased": logloss(scores.erased, labels.erased),
        }
        for name, scores in models.items()
    }
    figures["retrained"] = {
        "logit_gap_erased": noise_floor(erased),
        "logit_gap_test": noise_floor(test),
        "membership_auc": mean_figure([membership_auc(scores, labels) for scores in retrained]),
        "logloss_erased": mean_figure([logloss(scores, labels.erased) for scores in erased]),
    }
    return figures


def logit_gap(scores: Scores, reference: Scores) -> float | None:
    """Mean |scores - reference| over pairs (n,); None without pairs."""
    if len(scores) == 0:
        return None
    return float(np.abs(scores.astype(np.float64) - reference).mean())


def noise_floor(retrained: Sequence[Scores]) -> float | None:
    """Gap (see ``logit_gap``) of one retraining to the mean of the others, averaged over which one is left out.

    None for fewer than two retrainings.
    """
    if len(retrained) < 2:
        return None
    gaps = []
    for left_out, scores in enumerate(retrained):
        others = [other for index, other in enumerate(retrained) if index != left_out]
        gaps.append(logit_gap(scores, np.mean(others, axis=0)))
    return mean_figure(gaps)


def membership_auc(scores: PairScores, labels: HeldLabels) -> float | None:
    """AUC of telling erased pairs from touched test pairs by their loss, a low loss being the sign of a member.

    0.5 means that the erased pairs look like pairs never trained on; None where one of the two sets is empty.
    """
    touched = labels.test_touched
    losses = np.concatenate(
        [_losses(scores.erased, labels.erased), _losses(scores.test[touched], labels.test[touched])]
    )
    member = np.arange(len(losses)) < len(scores.erased)
    return auc(-losses, member.astype(np.float64))


def logloss(scores: Scores, labels: NDArray[np.floating]) -> float | None:
    """Mean negative log-likelihood of labels (n,) under sigmoid(scores); None without pairs."""
    if len(scores) == 0:
        return None
    return float(_losses(scores, labels).mean())


def _losses(scores: Scores, labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log loss of each pair (n,): log(1 + exp(-s)) for label 1, log(1 + exp(s)) for label 0."""
    return np.logaddexp(0.0, np.where(labels > 0.5, -1.0, 1.0) * scores.astype(np.float64))


def mean_figure(figures: Sequence[float | None]) -> float | None:
    """Mean of figures; None if one of them does not exist."""
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if len(known) == len(figures) else None
