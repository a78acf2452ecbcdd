"""Recall and NDCG of the first 20 against a plain loop over sorted items."""

import numpy as np
import pytest

from ifru_dist.evaluation.candidates import Candidates
from ifru_dist.evaluation.top_k import CUTOFF, TopK
from ifru_dist.interactions import Interactions

USERS, ITEMS = 12, 60
NO_ROWS = np.empty(0, np.int64)


def pairs(n: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.unique(
        np.stack([generator.integers(0, USERS, n), USERS + generator.integers(0, ITEMS, n)], axis=1), axis=0
    )


def positives(rows: np.ndarray) -> Interactions:
    return Interactions(rows, np.ones(len(rows), np.float32))


def question(held_out: Interactions, known: np.ndarray, most_users: int | None = None) -> TopK:
    return TopK(held_out, Candidates(known=known, sizes=(USERS, ITEMS), excluded_rows=NO_ROWS), most_users)


def test_figures_are_those_of_a_plain_loop() -> None:
    scores = np.random.default_rng(1).normal(size=(USERS, ITEMS))
    known, held_out = pairs(200, seed=2), pairs(300, seed=3)
    seen = set(map(tuple, known.tolist()))
    recalls, ndcgs = [], []
    for user in range(USERS):
        wanted = {item for owner, item in held_out.tolist() if owner == user and (user, item) not in seen}
        ranked = sorted(
            (item for item in range(USERS, USERS + ITEMS) if (user, item) not in seen),
            key=lambda item: -scores[user, item - USERS],
        )[:20]
        if wanted:
            gains = [1 / np.log2(place + 1) for place in range(1, 21)]
            recalls.append(len(wanted & set(ranked)) / len(wanted))
            found = sum(gain for gain, item in zip(gains, ranked, strict=True) if item in wanted)
            ndcgs.append(found / sum(gains[: len(wanted)]))
    figures = question(positives(held_out), known).figures(lambda users: scores[users].copy())
    assert CUTOFF == 20
    assert figures == {
        "recall_at_20": pytest.approx(np.mean(recalls), abs=1e-12),
        "ndcg_at_20": pytest.approx(np.mean(ndcgs), abs=1e-12),
    }
    assert 0.2 < figures["recall_at_20"] < 0.6


def test_a_model_that_ranks_held_out_items_first_has_the_best_figures() -> None:
    held_out = pairs(300, seed=3)
    scores = np.zeros((USERS, ITEMS))
    scores[held_out[:, 0], held_out[:, 1] - USERS] = 1.0
    few = held_out[np.isin(held_out[:, 1] % 3, 0)]
    figures = question(positives(few), np.empty((0, 2), np.int64)).figures(lambda users: scores[users].copy())
    assert figures["recall_at_20"] < 1  # others are tied with them
    scores[few[:, 0], few[:, 1] - USERS] = 2.0
    assert question(positives(few), np.empty((0, 2), np.int64)).figures(lambda users: scores[users].copy()) == {
        "recall_at_20": 1.0,
        "ndcg_at_20": pytest.approx(1.0),
    }


def test_interactions_with_the_label_0_are_not_asked_about() -> None:
    held_out = pairs(300, seed=3)
    mixed = Interactions(held_out, np.arange(len(held_out), dtype=np.float32) % 2)
    assert question(mixed, np.empty((0, 2), np.int64)).pairs.tolist() == held_out[1::2].tolist()


def test_a_sample_of_users_is_always_the_same_one() -> None:
    held_out = positives(pairs(300, seed=3))
    whole, first, second = (question(held_out, pairs(50, seed=2), most) for most in (None, 5, 5))
    assert (whole.users, first.users) == (USERS, 5)
    assert np.array_equal(first.pairs, second.pairs)
    sampled = np.isin(whole.pairs[:, 0], first.pairs[:, 0])
    assert np.array_equal(whole.pairs[sampled], first.pairs)


def test_without_pairs_or_scores_there_are_no_figures() -> None:
    nothing = question(positives(np.empty((0, 2), np.int64)), pairs(50, seed=2))
    assert nothing.users == 0
    assert nothing.figures(lambda users: np.zeros((len(users), ITEMS))) == {"recall_at_20": None, "ndcg_at_20": None}
    something = question(positives(pairs(50, seed=3)), pairs(50, seed=2))
    assert something.figures(None) == {"recall_at_20": None, "ndcg_at_20": None}
