import numpy as np
import pytest

from ifru_dist.evaluation.ranking import auc, touched_aucs
from ifru_dist.interactions import Interactions

# Users 0 and 1, items 2 and 3.
PAIRS = Interactions(
    np.array([[0, 2], [0, 3], [1, 2], [1, 3], [0, 2], [1, 3]]), np.array([1, 0, 0, 1, 0, 0], dtype=np.float32)
)
SCORES = np.array([0.9, 0.1, 0.8, 0.5, 0.95, 0.2])


def test_auc_counts_ordered_pairs() -> None:
    # Positives 0.9 and 0.5 against negatives 0.1, 0.8, 0.95, 0.2: 3 and 2 of 4 are below.
    assert auc(SCORES, PAIRS.labels) == pytest.approx(5 / 8)


def test_a_tie_counts_half() -> None:
    assert auc(np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])) == pytest.approx(0.75)


@pytest.mark.parametrize("labels", [[], [1.0, 1.0], [0.0]])
def test_without_both_labels_there_is_no_auc(labels: list[float]) -> None:
    assert auc(np.zeros(len(labels)), np.array(labels)) is None


def test_touched_aucs() -> None:
    # Row 0 or 2: scores 0.9+, 0.1, 0.8, 0.95; both: 0.9+, 0.95.
    figures = touched_aucs(SCORES, PAIRS, np.array([2, 0, 77]))
    assert figures == {"auc": pytest.approx(5 / 8), "auc_or": pytest.approx(2 / 3), "auc_and": pytest.approx(0.0)}


def test_touched_aucs_without_both_labels_are_none() -> None:
    assert touched_aucs(SCORES, PAIRS, np.array([], dtype=np.int64)) == {
        "auc": pytest.approx(5 / 8),
        "auc_or": None,
        "auc_and": None,
    }
