import math
from dataclasses import replace

import numpy as np
import pytest

from ifru_dist.evaluation.forgetting import (
    HeldLabels,
    PairScores,
    forgetting_figures,
    logit_gap,
    logloss,
    mean_and_spread,
    membership_auc,
    retrained_figures,
)

LABELS = HeldLabels(
    erased=np.array([1.0, 0.0]), test=np.array([1.0, 1.0, 0.0]), test_touched=np.array([True, False, True])
)


def scores(erased: list[float], test: list[float]) -> PairScores:
    return PairScores(erased=np.array(erased, dtype=np.float32), test=np.array(test, dtype=np.float32))


ORIGINAL = scores([3.0, -3.0], [1.0, 0.0, -1.0])
UNLEARNED = scores([1.0, -2.0], [0.5, 0.0, 0.0])
RETRAINED = [scores([0.0, 0.0], [0.0, 0.0, 0.0]), scores([1.0, -1.0], [1.0, 0.0, 0.0])]


def softplus(value: float) -> float:
    return float(np.log(1 + np.exp(value)))


def test_figures_of_a_case_done_by_hand() -> None:
    # The reference is [0.5, -0.5] on erased and [0.5, 0, 0] on test pairs.
    assert forgetting_figures(ORIGINAL, RETRAINED, LABELS) == {
        "logit_gap_erased": pytest.approx(2.5),
        "logit_gap_test": pytest.approx(0.5),
        "membership_auc": 1.0,
        "logloss_erased": pytest.approx(softplus(-3)),
    }
    assert forgetting_figures(UNLEARNED, RETRAINED, LABELS) == {
        "logit_gap_erased": pytest.approx(1.0),
        "logit_gap_test": 0.0,
        "membership_auc": 1.0,
        "logloss_erased": pytest.approx((softplus(-1) + softplus(-2)) / 2),
    }


def test_each_retraining_is_measured_against_the_others() -> None:
    # They are 1 apart on erased pairs. First: four equal losses; second: two members at -1 against -1 (a tie) and 0.
    first, second = retrained_figures(RETRAINED, LABELS)
    assert first == {
        "logit_gap_erased": pytest.approx(1.0),
        "logit_gap_test": pytest.approx(1 / 3),
        "membership_auc": pytest.approx(0.5),
        "logloss_erased": pytest.approx(softplus(0)),
    }
    assert second == {
        "logit_gap_erased": pytest.approx(1.0),
        "logit_gap_test": pytest.approx(1 / 3),
        "membership_auc": pytest.approx(0.75),
        "logloss_erased": pytest.approx(softplus(-1)),
    }


def test_one_retraining_has_no_noise_floor() -> None:
    (alone,) = retrained_figures(RETRAINED[:1], LABELS)
    assert alone["logit_gap_erased"] is None
    assert alone["logit_gap_test"] is None
    assert alone["logloss_erased"] == pytest.approx(softplus(0))


def test_noise_floor_leaves_each_out_in_turn() -> None:
    # 0 against 4.5, 3 against 3, 6 against 1.5.
    retrained = [scores([value, 0.0], [0.0, 0.0, 0.0]) for value in (0.0, 3.0, 6.0)]
    gaps = [figures["logit_gap_erased"] for figures in retrained_figures(retrained, LABELS)]
    assert gaps == pytest.approx([4.5 / 2, 0.0, 4.5 / 2])


def test_mean_and_spread() -> None:
    mean, spread = mean_and_spread([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": None}, {"a": 8.0, "b": 2.0}])
    assert mean == {"a": 4.0, "b": None}
    assert spread == {"a": pytest.approx(math.sqrt(13)), "b": None}


def test_one_model_has_no_spread() -> None:
    assert mean_and_spread([{"a": 1.5, "b": None}]) == ({"a": 1.5, "b": None}, {"a": None, "b": None})


def test_untouched_test_pairs_do_not_count_for_membership() -> None:
    far = PairScores(erased=UNLEARNED.erased, test=np.array([0.5, 1e6, 0.0]))
    assert membership_auc(far, LABELS) == membership_auc(UNLEARNED, LABELS)


def test_membership_is_below_a_half_where_erased_pairs_fit_worse() -> None:
    assert membership_auc(scores([-5.0, 5.0], [1.0, 0.0, -1.0]), LABELS) == 0.0


def test_figures_that_do_not_exist_are_none() -> None:
    nothing = HeldLabels(erased=np.empty(0), test=LABELS.test, test_touched=LABELS.test_touched)
    figures = forgetting_figures(scores([], [0.5, 0.0, 0.0]), [scores([], [0.0, 0.0, 0.0])], nothing)
    assert figures == {
        "logit_gap_erased": None,
        "logit_gap_test": pytest.approx(0.5 / 3),
        "membership_auc": None,
        "logloss_erased": None,
    }


def test_large_scores_do_not_overflow() -> None:
    assert logloss(np.array([-1e4], dtype=np.float32), np.array([1.0])) == pytest.approx(1e4)
    assert logit_gap(np.array([1e4], dtype=np.float32), [np.array([-1e4])]) == pytest.approx(2e4)


def labels_of(loss: str) -> HeldLabels:
    return replace(LABELS, loss=loss)


@pytest.mark.parametrize("loss", ["squared", "bpr"])
def test_scores_that_are_no_logits_have_no_log_loss(loss: str) -> None:
    assert logloss(ORIGINAL.erased, LABELS.erased, loss) is None
    figures = forgetting_figures(ORIGINAL, RETRAINED, labels_of(loss))
    assert figures["logloss_erased"] is None
    assert figures["logit_gap_erased"] == pytest.approx(2.5)


def test_members_of_a_squared_loss_are_told_by_their_squared_error() -> None:
    # Errors of erased pairs: 0.1, 0.2; of the touched test pairs, the first and the last: 0.15 and 3.
    model = scores([1.1, -0.2], [0.85, 0.0, 3.0])
    assert membership_auc(model, labels_of("squared")) == 0.75
    assert membership_auc(scores([3.0, -3.0], [1.0, 0.0, 0.0]), labels_of("squared")) == 0.0


def test_members_of_a_pairwise_loss_are_told_by_the_scores_of_positives() -> None:
    # One erased positive and one touched test positive: pairs with the label 0 were never trained on.
    assert membership_auc(scores([2.0, 9.0], [1.0, 5.0, 9.0]), labels_of("bpr")) == 1.0
    assert membership_auc(scores([0.5, -9.0], [1.0, 5.0, -9.0]), labels_of("bpr")) == 0.0
