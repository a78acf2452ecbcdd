import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from ifru_dist.evaluation.forgetting import HeldLabels, PairScores, membership_auc
from ifru_dist.evaluation.membership import (
    MIN_PAIRS,
    AttackPool,
    attack_pool,
    fit_attack,
    shadow_members,
)
from ifru_dist.interactions import Interactions

N = 300
NO_ROWS = np.empty(0, np.int64)
ERASED = np.arange(2 * N) < N
"""In the hand-made cases the pool holds N erased, then N test pairs."""


def interactions(rows: list[tuple[int, int]], labels: list[int] | None = None) -> Interactions:
    return Interactions(np.array(rows, np.int64).reshape(-1, 2), np.array(labels or [1] * len(rows), np.float32))


def scored(difficulty: np.ndarray, members: np.ndarray, seed: int) -> np.ndarray:
    """Statistics of a model: the pair's own level, 1 more for pairs it was trained on, and some noise of training."""
    return difficulty + members + 0.2 * np.random.default_rng(seed).normal(size=len(difficulty))


def test_the_attack_tells_doing_nothing_from_retraining_where_a_loss_threshold_cannot() -> None:
    # Pairs differ far more in how easy they are than being trained on changes them.
    difficulty = 10 * np.random.default_rng(1).normal(size=2 * N)
    members = shadow_members(2 * N, 8, seed=1)
    shadows = np.array([scored(difficulty, row, seed) for seed, row in enumerate(members)])
    attack = fit_attack(shadows, members, ERASED)
    original, retrained = scored(difficulty, ERASED, 100), scored(difficulty, 0 * ERASED, 101)
    assert attack.auc(original) > 0.99
    assert attack.auc(retrained) == pytest.approx(0.5, abs=0.07)  # 3 standard errors
    halfway = scored(difficulty, 0.5 * ERASED, 102)
    assert attack.auc(retrained) + 0.2 < attack.auc(halfway) < attack.auc(original)
    labels = HeldLabels(erased=np.ones(N), test=np.ones(N), test_touched=np.ones(N, dtype=bool))
    by_loss = membership_auc(PairScores(erased=original[:N], test=original[N:]), labels)
    assert by_loss == pytest.approx(0.5, abs=0.1)


def test_without_noise_the_attack_is_never_wrong() -> None:
    difficulty = np.random.default_rng(1).normal(size=2 * N)
    members = shadow_members(2 * N, 4, seed=1)
    attack = fit_attack(difficulty + members, members, ERASED)
    assert attack.auc(difficulty + ERASED) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(attack.log_ratios(difficulty + ERASED) > 0, ERASED)
    assert not (attack.log_ratios(difficulty) > 0).any()


def test_gaussians_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(2)
    members, statistics = shadow_members(7, 6, seed=3), generator.normal(size=(6, 7))
    attack = fit_attack(statistics, members, np.arange(7) < 4)
    sides = [
        [[statistics[s, pair] for s in range(6) if members[s, pair] == side] for pair in range(7)]
        for side in (True, False)
    ]
    variance = np.mean([np.var(values, ddof=1) for side in sides for values in side])
    target = generator.normal(size=7)
    expected = [
        norm.logpdf(target[pair], np.mean(sides[0][pair]), np.sqrt(variance))
        - norm.logpdf(target[pair], np.mean(sides[1][pair]), np.sqrt(variance))
        for pair in range(7)
    ]
    np.testing.assert_allclose(attack.log_ratios(target), expected, rtol=1e-10)


@given(n_pairs=st.integers(1, 40), half=st.integers(2, 8), seed=st.integers(0, 99))
def test_every_pair_is_in_half_of_the_shadows(n_pairs: int, half: int, seed: int) -> None:
    members = shadow_members(n_pairs, 2 * half, seed)
    assert members.shape == (2 * half, n_pairs)
    np.testing.assert_array_equal(members.sum(axis=0), half)
    assert set(members.sum(axis=1)) <= {n_pairs // 2, n_pairs - n_pairs // 2}


def test_the_halves_are_random() -> None:
    members = shadow_members(400, 4, seed=1)
    assert not (members == shadow_members(400, 4, seed=2)).all()
    assert not (members[0] == members[2]).all()
    assert 0.3 < members[0, :200].mean() < 0.7  # not the erased pairs in one, the test pairs in the other


def test_statistics_are_signed_logits_of_the_chosen_pairs() -> None:
    pool = AttackPool(erased=np.array([0, 2]), test=np.array([1]))
    labels = HeldLabels(
        erased=np.array([1.0, 1.0, 0.0]), test=np.array([1.0, 0.0]), test_touched=np.array([True, True])
    )
    scores = PairScores(erased=np.array([1.5, 9.0, 2.0]), test=np.array([9.0, -3.0]))
    assert pool.statistics(scores, labels).tolist() == [1.5, -2.0, 3.0]
    assert len(pool) == 3


KEPT = interactions([(0, 10), (1, 11)])


def test_the_pool_holds_distinct_touched_pairs_that_retraining_does_not_see() -> None:
    erased = interactions([(0, 11), (0, 11), (1, 11), (2, 12), (3, 12)], [1, 0, 1, 0, 1])
    test = interactions([(0, 10), (5, 12), (0, 11), (7, 15), (0, 15), (5, 12), (2, 10), (3, 10)])
    pool = attack_pool(erased, test, KEPT, excluded_rows=np.array([3]), most=100, seed=1)
    assert pool.erased.tolist() == [0, 3]  # not the repeated, the kept, the forgotten one
    assert len(pool.test) == 2
    assert set(pool.test) <= {1, 4, 6}  # not kept, erased, untouched, repeated, forgotten
    pairs = pool.pairs(erased, test)
    assert pairs.rows[:2].tolist() == [[0, 11], [2, 12]]
    assert pairs.labels[:2].tolist() == [1, 0]


@given(seed=st.integers(0, 50), most=st.integers(1, 30))
def test_the_pool_is_balanced_capped_and_unseen(seed: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    erased, test, kept = (
        interactions(
            [(int(u), int(i)) for u, i in zip(generator.integers(0, 6, n), generator.integers(6, 12, n), strict=True)]
        )
        for n in (15, 25, 10)
    )
    pool = attack_pool(erased, test, kept, excluded_rows=NO_ROWS, most=most, seed=seed)
    assert len(pool.test) <= len(pool.erased) <= most
    rows = [tuple(row) for row in pool.pairs(erased, test).rows.tolist()]
    assert len(set(rows)) == len(rows)
    assert not set(rows) & {tuple(row) for row in kept.rows.tolist()}
    distinct = {tuple(row) for row in erased.rows.tolist()} - {tuple(row) for row in kept.rows.tolist()}
    assert len(pool.erased) == min(most, len(distinct))


def test_the_seed_makes_the_choice() -> None:
    erased = interactions([(0, row) for row in range(10, 60)])
    test = interactions([(row, 10) for row in range(1, 9)] + [(0, row) for row in range(60, 90)])
    chosen = [attack_pool(erased, test, KEPT, excluded_rows=NO_ROWS, most=20, seed=seed) for seed in (1, 1, 2)]
    assert chosen[0].erased.tolist() == chosen[1].erased.tolist() != chosen[2].erased.tolist()
    assert chosen[0].test.tolist() == chosen[1].test.tolist() != chosen[2].test.tolist()
    assert len(chosen[0].erased) == len(chosen[0].test) == 20


def test_a_small_pool_says_what_it_lacks() -> None:
    assert AttackPool(erased=np.arange(MIN_PAIRS), test=np.arange(MIN_PAIRS)).too_small() is None
    reason = AttackPool(erased=np.arange(12), test=np.arange(3)).too_small()
    assert reason is not None
    assert "10 test pairs" in reason
    assert "there are 12 and 3" in reason
