"""Negatives that are drawn: never a known positive, uniform, and the same for whoever asks."""

import numpy as np
import pytest

from ifru_dist.models.negatives import Negatives

USERS, ITEMS = 7, range(7, 57)


def positives() -> np.ndarray:
    """Pairs of all users, of the first with two thirds of the items."""
    generator = np.random.default_rng(1)
    rows = np.stack([generator.integers(0, USERS, 90), generator.integers(ITEMS.start, ITEMS.stop, 90)], axis=1)
    rows = rows[rows[:, 0] > 0]
    many = np.array([(0, item) for item in ITEMS if item % 3])
    return np.concatenate([rows, many])


def negatives(seed: int = 3) -> Negatives:
    return Negatives(positives(), ITEMS, seed)


def test_no_draw_is_a_known_positive() -> None:
    known = set(map(tuple, positives().tolist()))
    users, examples = np.arange(USERS).repeat(400), np.arange(USERS * 400)
    drawn = negatives().draw(users, examples, draw=0)
    assert drawn.min() >= ITEMS.start
    assert drawn.max() < ITEMS.stop
    assert not any(pair in known for pair in zip(users.tolist(), drawn.tolist(), strict=True))
    assert set(drawn[users == 0]) == {item for item in ITEMS if item % 3 == 0}


def test_a_user_who_has_everything_gets_some_item() -> None:
    everything = np.array([(0, item) for item in ITEMS])
    drawn = Negatives(everything, ITEMS, seed=1).draw(np.zeros(5, np.int64), np.arange(5), draw=0)
    assert np.isin(drawn, ITEMS).all()


@pytest.mark.parametrize("by", ["example", "draw", "seed"])
def test_draws_are_uniform_over_what_the_user_does_not_have(by: str) -> None:
    user, n = 1, 20_000
    allowed = np.setdiff1d(ITEMS, positives()[positives()[:, 0] == user, 1])
    if by == "example":
        drawn = negatives().draw(np.full(n, user), np.arange(n), draw=2)
    elif by == "draw":
        drawn = np.array([negatives().draw(np.array([user]), np.array([5]), number)[0] for number in range(n // 20)])
    else:
        drawn = np.array([negatives(seed).draw(np.array([user]), np.array([5]), 0)[0] for seed in range(n // 20)])
    counts = np.bincount(drawn, minlength=ITEMS.stop)[allowed]
    assert counts.sum() == len(drawn)
    expected = len(drawn) / len(allowed)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = len(allowed) - 1
    assert abs(chi_squared - freedom) < 4 * np.sqrt(2 * freedom)


def test_a_draw_does_not_depend_on_what_else_is_asked_for() -> None:
    users, examples = np.arange(USERS).repeat(30), np.arange(USERS * 30) * 11
    together = negatives().draw(users, examples, draw=4)
    some = np.random.default_rng(2).permutation(len(users))[:40]
    assert np.array_equal(negatives().draw(users[some], examples[some], draw=4), together[some])
    assert negatives().draw(users[:0], examples[:0], draw=4).shape == (0,)


def test_seed_draw_and_example_each_change_the_draws() -> None:
    users, examples = np.ones(500, np.int64), np.arange(500)
    first = negatives().draw(users, examples, draw=4)
    for other in (
        negatives(seed=4).draw(users, examples, draw=4),
        negatives().draw(users, examples, draw=5),
        negatives().draw(users, examples + 500, draw=4),
    ):
        assert 0 < (other == first).mean() < 0.1  # 1 in 40 by chance


def test_draws_stay_what_they_were_in_earlier_releases() -> None:
    # A workspace made by one release may be unlearned by workers of the next: the objective must be the same one.
    drawn = negatives().draw(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 1 << 40]), draw=1)
    assert drawn.tolist() == [21, 46, 40, 25]


def test_without_positives_any_item_may_be_drawn() -> None:
    drawn = Negatives(np.empty((0, 2), np.int64), ITEMS, seed=1).draw(np.zeros(3000, np.int64), np.arange(3000), 0)
    assert set(drawn) == set(ITEMS)


def test_tuples_hold_each_positive_once_for_every_draw() -> None:
    rows, ids = np.array([[1, 8, 60], [2, 9, 61]]), np.array([40, 7])
    tuples = negatives().tuples(rows, ids, range(3, 6))
    assert tuples.rows.shape == (6, 4)
    assert tuples.examples.tolist() == [40, 40, 40, 7, 7, 7]
    assert tuples.weights.dtype == np.float32
    np.testing.assert_allclose(tuples.weights, np.full(6, 1 / 3), rtol=1e-7)
    assert tuples.rows[:, :3].tolist() == [[1, 8, 60]] * 3 + [[2, 9, 61]] * 3
    for place, number in enumerate(range(3, 6)):
        assert tuples.rows[[place, 3 + place], 3].tolist() == negatives().draw(rows[:, 0], ids, number).tolist()


def test_forgotten_items_are_drawn_for_nobody_and_no_other_draw_changes() -> None:
    users, examples = np.arange(USERS).repeat(200), np.arange(USERS * 200)
    before = negatives().draw(users, examples, draw=0)
    forgotten = np.array([2, 9, 30, 31])  # a user among them is none of the items
    drawn = Negatives(positives(), ITEMS, 3, forgotten).draw(users, examples, draw=0)
    assert not np.isin(drawn, forgotten).any()
    unaffected = ~np.isin(before, forgotten)
    assert 0 < unaffected.sum() < len(before)
    assert np.array_equal(drawn[unaffected], before[unaffected])
