"""Recovery against a dense brute force that puts ties in every order."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.evaluation import candidates as candidates_module
from ifru_dist.evaluation import recovery as module
from ifru_dist.evaluation.candidates import BEHIND, Candidates, RankedPairs
from ifru_dist.evaluation.recovery import Recovery
from ifru_dist.interactions import Interactions
from ifru_dist.models.predict import ItemScores

NONE = np.empty((0, 2), np.int64)
NO_ROWS = np.empty(0, np.int64)


def asked(erased: Interactions, kept: np.ndarray, sizes: tuple[int, int], excluded: Any = NO_ROWS) -> Recovery:
    return Recovery(erased, Candidates(known=kept, sizes=sizes, excluded_rows=np.asarray(excluded, np.int64)))


def scoring(scores: np.ndarray) -> ItemScores:
    """A model with these scores (users, items)."""
    return lambda users: scores[users].astype(np.float64)


def brute_force(
    scores: np.ndarray, erased: Interactions, kept: np.ndarray, excluded: list[int], k: int
) -> float | None:
    """Mean over the distinct pairs of the chance to be among the first k, over all orders of the user's candidates."""
    users, items = scores.shape
    seen = {tuple(row) for row in kept}
    pairs = {tuple(row) for row, label in zip(erased.rows.tolist(), erased.labels, strict=True) if label == 1}
    hits = []
    for user, item in pairs - seen:
        if user in excluded or item in excluded:
            continue
        candidates = [row for row in range(users, users + items) if (user, row) not in seen and row not in excluded]
        orders = list(itertools.permutations(candidates))
        found = [
            item in sorted(order, key=lambda row: -scores[user, row - users])[:k]  # sorted keeps the order of ties
            for order in orders
        ]
        hits.append(np.mean(found))
    return float(np.mean(hits)) if hits else None


@st.composite
def questions(draw: st.DrawFn) -> tuple[np.ndarray, Interactions, np.ndarray, list[int]]:
    users, items = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    cell = st.tuples(st.integers(0, users - 1), st.integers(users, users + items - 1))
    rows = draw(st.lists(cell, max_size=8))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(rows), max_size=len(rows)))
    kept = draw(st.lists(cell, max_size=6))
    scores = draw(st.lists(st.integers(-1, 2), min_size=users * items, max_size=users * items))
    return (
        np.array(scores, dtype=np.float64).reshape(users, items),
        Interactions(np.array(rows, np.int64).reshape(-1, 2), np.array(labels, np.float32)),
        np.array(kept, np.int64).reshape(-1, 2),
        draw(st.lists(st.integers(0, users + items - 1), max_size=2, unique=True)),
    )


@given(question=questions(), k=st.integers(1, 4), at_once=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_recovery_is_that_of_every_order_of_the_candidates(question: Any, k: int, at_once: int) -> None:
    scores, erased, kept, excluded = question
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CUTOFFS", (k,))
        patch.setattr(candidates_module, "SCORES_AT_ONCE", at_once)
        figures = asked(erased, kept, scores.shape, excluded).figures(scoring(scores))
    expected = brute_force(scores, erased, kept, excluded, k)
    assert figures == {f"recovery_at_{k}": expected if expected is None else pytest.approx(expected, abs=1e-12)}


def test_erased_favourites_come_back_with_the_original_and_not_with_a_model_that_never_saw_them() -> None:
    # 30 users, 200 items; each user's erased items 0, 1, 2 score highest in the original and at random in the other.
    generator = np.random.default_rng(3)
    retrained = generator.normal(size=(30, 200))
    original = retrained.copy()
    original[:, :3] += 10
    rows = np.array([(user, 30 + item) for user in range(30) for item in range(3)])
    question = asked(Interactions(rows, np.ones(90, np.float32)), NONE, (30, 200))
    assert question.figures(scoring(original)) == {"recovery_at_10": 1.0, "recovery_at_20": 1.0, "recovery_at_50": 1.0}
    figures = question.figures(scoring(retrained))
    assert figures["recovery_at_10"] == pytest.approx(10 / 200, abs=0.05)
    assert figures["recovery_at_50"] == pytest.approx(50 / 200, abs=0.1)


def test_a_model_that_scores_everything_alike_recovers_no_more_than_chance() -> None:
    question = asked(Interactions(np.array([[0, 5], [1, 7]]), np.ones(2, np.float32)), NONE, (2, 80))
    assert question.figures(scoring(np.zeros((2, 80)))) == {f"recovery_at_{k}": k / 80 for k in (10, 20, 50)}


def test_items_that_the_user_still_has_are_no_candidates() -> None:
    scores = np.zeros((2, 60))
    scores[:, :20] = 5.0  # items 0 .. 19 rank first
    scores[:, 20] = 4.0
    erased = Interactions(np.array([[0, 22], [1, 22]]), np.ones(2, np.float32))
    kept = np.array([(0, 2 + item) for item in range(15)])
    ranked = RankedPairs(erased.rows, Candidates(known=kept, sizes=(2, 60), excluded_rows=NO_ROWS))
    places = ranked.places(scoring(scores), 50)
    assert (places.higher.tolist(), places.tied.tolist()) == ([5, 20], [1, 1])
    assert ranked.places(scoring(scores), 20).higher.tolist() == [5, BEHIND]
    assert asked(erased, kept, (2, 60)).figures(scoring(scores))["recovery_at_10"] == 0.5


def test_forgotten_rows_are_neither_asked_about_nor_candidates() -> None:
    scores = np.arange(12.0)[::-1].reshape(1, 12).repeat(3, axis=0)
    erased = Interactions(np.array([[0, 14], [1, 14], [2, 3]]), np.ones(3, np.float32))
    question = asked(erased, NONE, (3, 12), excluded=[1, 3, 4])
    assert question.pairs.tolist() == [[0, 14]]
    assert question.figures(scoring(scores))["recovery_at_10"] == 1.0  # 11 items score higher, 2 of them are excluded


def test_only_distinct_positives_that_are_not_kept_are_asked_about() -> None:
    rows = np.array([[1, 4], [0, 3], [1, 4], [0, 4], [1, 3]])
    erased = Interactions(rows, np.array([1, 0, 1, 1, 1], np.float32))
    assert asked(erased, np.array([[1, 3]]), (2, 3)).pairs.tolist() == [[0, 4], [1, 4]]


def test_without_pairs_there_is_no_figure() -> None:
    question = asked(Interactions(NONE, np.empty(0, np.float32)), NONE, (2, 3))
    assert question.figures(scoring(np.ones((2, 3)))) == dict.fromkeys(
        ("recovery_at_10", "recovery_at_20", "recovery_at_50")
    )


def test_a_model_that_cannot_score_all_items_has_no_figure() -> None:
    question = asked(Interactions(np.array([[0, 2]]), np.ones(1, np.float32)), NONE, (2, 3))
    assert question.figures(None) == dict.fromkeys(("recovery_at_10", "recovery_at_20", "recovery_at_50"))
