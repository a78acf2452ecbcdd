import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ifru_dist.evaluation import recovered as module
from ifru_dist.evaluation.ranking import touched_aucs
from ifru_dist.evaluation.recovered import ResampledAuc, recovered_shares
from ifru_dist.interactions import Interactions

USERS, ITEMS, PAIRS = 20, 20, 1500
RNG = np.random.default_rng(11)
TEST = Interactions(
    np.stack([RNG.integers(0, USERS, PAIRS), RNG.integers(USERS, USERS + ITEMS, PAIRS)], axis=1),
    RNG.integers(0, 2, PAIRS).astype(np.float32),
)
TOUCHED = np.concatenate([np.arange(0, 8), np.arange(USERS, USERS + 9)])
NOISE = RNG.normal(size=PAIRS)


def model(signal: float, seed: int | None = None) -> np.ndarray:
    """Scores with so much of the label in them; the noise is shared, as between models of the same data, or own."""
    noise = NOISE if seed is None else NOISE + 0.02 * np.random.default_rng(seed).normal(size=PAIRS)
    return signal * (TEST.labels - 0.5) + noise


ORIGINAL, UNLEARNED, RETRAINED = model(0.4), model(0.8), [model(1.0, seed) for seed in (1, 2)]


@given(pairs=st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_weighted_auc_is_that_of_scikit_learn(pairs: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    found = ResampledAuc(scores, labels)(weights)
    counted = weights > 0
    if len(set(labels[counted])) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)


def test_shares_are_those_of_the_aucs() -> None:
    shares = recovered_shares(ORIGINAL, UNLEARNED, RETRAINED, TEST, TOUCHED, seed=1)
    original, unlearned, *retrained = (touched_aucs(s, TEST, TOUCHED) for s in (ORIGINAL, UNLEARNED, *RETRAINED))
    assert set(shares) == {"auc", "auc_or", "auc_and"}
    for name, share in shares.items():
        wanted = np.mean([figures[name] for figures in retrained]) - original[name]
        assert share["value"] == pytest.approx((unlearned[name] - original[name]) / wanted, abs=1e-9)
        assert share["low"] < share["value"] < share["high"]
    # The fewer pairs, the wider.
    widths = {name: share["high"] - share["low"] for name, share in shares.items()}
    assert widths["auc"] < widths["auc_or"] < widths["auc_and"]


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    share = recovered_shares(ORIGINAL, UNLEARNED, RETRAINED, TEST, TOUCHED, seed=1)["auc"]
    generator, shares = np.random.default_rng(99), []
    for _ in range(400):
        drawn = generator.integers(0, PAIRS, PAIRS)
        original, unlearned, *retrained = (
            roc_auc_score(TEST.labels[drawn], scores[drawn]) for scores in (ORIGINAL, UNLEARNED, *RETRAINED)
        )
        shares.append((unlearned - original) / (np.mean(retrained) - original))
    low, high = np.quantile(shares, [0.025, 0.975])
    width = high - low
    assert share["low"] == pytest.approx(low, abs=0.2 * width)
    assert share["high"] == pytest.approx(high, abs=0.2 * width)


def test_doing_nothing_recovers_nothing_and_retraining_all() -> None:
    nothing = recovered_shares(ORIGINAL, ORIGINAL, RETRAINED, TEST, TOUCHED, seed=1)
    everything = recovered_shares(ORIGINAL, RETRAINED[0], RETRAINED[:1], TEST, TOUCHED, seed=1)
    for name in nothing:
        assert nothing[name] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert everything[name] == {"value": 1.0, "low": 1.0, "high": 1.0}
    half = recovered_shares(ORIGINAL, UNLEARNED, RETRAINED, TEST, TOUCHED, seed=1)["auc"]
    assert 0 < half["low"] < half["high"] < 1


def test_where_retraining_wins_nothing_for_certain_there_is_no_share() -> None:
    apart = ORIGINAL + 0.1 * np.random.default_rng(4).normal(size=PAIRS)  # other ranks, not better ones
    share = recovered_shares(ORIGINAL, UNLEARNED, [apart], TEST, TOUCHED, seed=1)["auc"]
    assert share == {"value": None, "low": None, "high": None}
    worse = recovered_shares(RETRAINED[0], UNLEARNED, [ORIGINAL], TEST, TOUCHED, seed=1)["auc"]
    assert worse == {"value": None, "low": None, "high": None}
    same = recovered_shares(ORIGINAL, UNLEARNED, [ORIGINAL], TEST, TOUCHED, seed=1)["auc"]
    assert same == {"value": None, "low": None, "high": None}


def test_figures_without_pairs_are_none() -> None:
    shares = recovered_shares(ORIGINAL, UNLEARNED, RETRAINED, TEST, np.empty(0, np.int64), seed=1)
    assert shares["auc"]["value"] is not None
    assert shares["auc_or"] == shares["auc_and"] == {"value": None, "low": None, "high": None}


def test_draws_with_one_label_only_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the four pairs a draw often holds one label only.
    monkeypatch.setattr(module, "RESAMPLES", 200)
    test = Interactions(np.array([[0, 1]] * 4), np.array([1, 0, 0, 0], np.float32))
    bad, good = np.array([0.0, 1.0, 2.0, 3.0]), np.array([9.0, 1.0, 2.0, 3.0])
    assert recovered_shares(bad, good, [good], test, np.array([0]), seed=1)["auc_or"] == {
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
    }


def test_the_seed_makes_the_draws() -> None:
    shares = [recovered_shares(ORIGINAL, UNLEARNED, RETRAINED, TEST, TOUCHED, seed)["auc"] for seed in (1, 1, 2)]
    assert shares[0] == shares[1]
    assert shares[0]["low"] != shares[2]["low"]
    assert shares[0]["value"] == shares[2]["value"]
