"""Where pairs stand among candidates: against sorting, with ties, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from ifru_dist.evaluation import candidates as module
from ifru_dist.evaluation.candidates import BEHIND, Candidates, Places, RankedPairs, log_ranks

NO_ROWS, NO_PAIRS = np.empty(0, np.int64), np.empty((0, 2), np.int64)


@pytest.mark.parametrize("at_once", [1, 100, 10_000])
def test_places_are_those_of_sorting_each_user(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    generator = np.random.default_rng(3)
    users, items, depth = 23, 37, 9
    scores = generator.integers(0, 12, (users, items)).astype(np.float64)  # many ties
    drawn = np.stack([generator.integers(0, users, 400), users + generator.integers(0, items, 400)], axis=1)
    known, pairs, excluded = drawn[:150], drawn[150:], np.array([4, users + 7])
    ranked = RankedPairs(pairs, Candidates(known=known, sizes=(users, items), excluded_rows=excluded))
    places = ranked.places(lambda rows: scores[rows].copy(), depth)
    assert len(places.higher) == len(ranked.pairs) > 100
    for (user, item), higher, tied in zip(ranked.pairs.tolist(), places.higher, places.tied, strict=True):
        seen = {*known[known[:, 0] == user, 1].tolist(), *excluded.tolist()}
        others = [scores[user, row - users] for row in range(users, users + items) if row not in seen]
        own = scores[user, item - users]
        above, equal = sum(score > own for score in others), sum(score == own for score in others)
        assert (higher, tied) == ((above, equal) if above < depth else (BEHIND, 1))


def test_chances_and_gains_are_means_over_the_orders_of_tied_items() -> None:
    places = Places(np.array([0, 2, 3, 1, BEHIND]), np.array([1, 4, 2, 1, 1]))
    np.testing.assert_allclose(places.within(4), [1.0, 0.5, 0.5, 1.0, 0.0])
    gains = np.array([8.0, 4.0, 2.0, 1.0])
    np.testing.assert_allclose(places.gain(gains), [8.0, 3 / 4, 1 / 2, 4.0, 0.0])


def test_a_score_that_is_no_number_is_behind_all() -> None:
    scores = np.array([[np.nan, 1.0, 0.0]])
    ranked = RankedPairs(np.array([[0, 1]]), Candidates(known=NO_PAIRS, sizes=(1, 3), excluded_rows=NO_ROWS))
    assert ranked.places(lambda users: scores[users], 3).within(3).tolist() == [0.0]


def test_memory_stays_bounded() -> None:
    # 1,000 users: all their scores at once would be 1,000 x 20,000 float64, 160 MB.
    users, items = 1_000, 20_000
    pairs = np.stack([np.arange(users), users + np.arange(users)], axis=1)
    outputs = np.random.default_rng(1).normal(size=(users + items, 2))
    ranked = RankedPairs(pairs, Candidates(known=NO_PAIRS, sizes=(users, items), excluded_rows=NO_ROWS))
    tracemalloc.start()
    places = ranked.places(lambda rows: outputs[rows] @ outputs[users:].T, items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    scores = outputs[:users] @ outputs[users:].T
    np.testing.assert_array_equal(places.higher, [(row > row[place]).sum() for place, row in enumerate(scores)])
    assert peak < 100e6 < 8.0 * users * items


@pytest.mark.parametrize("at_once", [1, 100, 10_000])
def test_log_ranks_count_the_items_that_score_higher_and_half_of_those_tied(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    generator = np.random.default_rng(5)
    users, items = 23, 37
    scores = generator.integers(0, 12, (users, items)).astype(np.float64)
    pairs = np.stack([generator.integers(3, users, 200), users + generator.integers(0, items, 200)], axis=1)
    found = log_ranks(lambda rows: scores[rows], pairs, range(users, users + items))
    for (user, item), log_rank in zip(pairs.tolist(), found, strict=True):
        own, others = scores[user, item - users], np.delete(scores[user], item - users)
        assert np.expm1(log_rank) == pytest.approx((others > own).sum() + (others == own).sum() / 2)
    assert len(log_ranks(lambda rows: scores[rows], NO_PAIRS, range(users, users + items))) == 0
