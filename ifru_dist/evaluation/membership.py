"""A membership attack that knows each pair: can one tell from a model that a pair was trained on?

The likelihood ratio attack of Carlini et al., "Membership Inference Attacks From First Principles" (LiRA,
arXiv 2112.03570). Shadow models are retrained with and without each pair of a pool; a model's score of the pair is then
held against what it is with (IN) and without (OUT) the pair. A loss threshold mistakes pairs that are easy to predict
for members; this does not.

The pool is made of erased pairs and of test pairs of the same rows: the retrained model saw none of them, the original
model the erased ones. The AUC of telling the two apart is high where an erasure did nothing, and near 0.5 for retrained
models. Their own value is the target: with mislabelled pairs it lies below 0.5, since the shadows learned half of the
wrong labels and the retrained models none.

Shapes: p pairs in the pool, S shadow models.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.forgetting import HeldLabels, PairScores
from ifru_dist.evaluation.ranking import auc
from ifru_dist.interactions import Interactions

MIN_SHADOWS = 4
"""Two with and two without each pair: the fewest that have a variance."""
MIN_PAIRS = 10
"""Of either kind; the AUC of fewer means nothing."""
_VARIANCE_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True)
class AttackPool:
    """The pairs that the attack is about: erased ones, then test pairs."""

    erased: NDArray[np.int64]
    """Positions among the erased pairs."""
    test: NDArray[np.int64]
    """Positions among the test pairs."""

    def __len__(self) -> int:
        """P, the number of pairs."""
        return len(self.erased) + len(self.test)

    def too_small(self) -> str | None:
        """Why the attack can say nothing about this pool; None if it can."""
        if min(len(self.erased), len(self.test)) >= MIN_PAIRS:
            return None
        return (
            f"it needs {MIN_PAIRS} erased pairs without a forgotten user or item, and {MIN_PAIRS} test pairs of the "
            f"same rows that are not in the kept data, and there are {len(self.erased)} and {len(self.test)}"
        )

    def pairs(self, erased: Interactions, test: Interactions) -> Interactions:
        """The pairs themselves, with their labels."""
        return erased.take(self.erased).joined(test.take(self.test))

    def statistics(self, scores: PairScores, labels: HeldLabels) -> NDArray[np.float64]:
        """Signed logits s (2 y - 1), (p,), of one model: high where it is sure of a pair's label."""
        signed = [
            part_scores[chosen].astype(np.float64) * (2.0 * part_labels[chosen] - 1.0)
            for part_scores, part_labels, chosen in (
                (scores.erased, labels.erased, self.erased),
                (scores.test, labels.test, self.test),
            )
        ]
        return np.concatenate(signed)


def attack_pool(
    erased: Interactions,
    test: Interactions,
    kept: Interactions,
    *,
    excluded_rows: NDArray[np.int64],
    most: int,
    seed: int,
) -> AttackPool:
    """Choose distinct pairs that the kept data do not hold: erased ones, and as many touched test pairs at most.

    Pairs of forgotten users and items stay out: such a row was made anew, and no test pair is left to compare with.

    Args:
        erased: pairs, with labels as they were trained.
        test: held-out pairs; those are touched that share a row with an erased pair.
        kept: training interactions that are left.
        excluded_rows: global rows whose pairs are left out.
        most: pairs of either kind at most; a random choice where there are more.
        seed: of that choice.
    """
    generator = np.random.default_rng(seed)
    members = _choose(_usable(erased, [kept], excluded_rows), most, generator)
    others = _usable(test, [kept, erased], excluded_rows)
    others = others[np.isin(test.pairs[others], erased.pairs).any(axis=1)]
    return AttackPool(erased=members, test=_choose(others, len(members), generator))


def shadow_members(n_pairs: int, n_shadows: int, seed: int) -> NDArray[np.bool_]:
    """Which pairs each shadow is trained on, (S, p): half of the pairs each, and each pair by half of the shadows.

    Shadows come in twos that halve the pool between them at random.

    Args:
        n_pairs: p.
        n_shadows: S, even.
        seed: of the halving.
    """
    generator = np.random.default_rng(seed)
    first = np.stack([generator.permutation(n_pairs) < n_pairs // 2 for _ in range(n_shadows // 2)])
    return np.stack([first, ~first], axis=1).reshape(n_shadows, n_pairs)


@dataclass(frozen=True, kw_only=True)
class MembershipAttack:
    """Gaussians of each pair's statistic with and without it."""

    mean_in: NDArray[np.float64]
    """(p,)"""
    mean_out: NDArray[np.float64]
    """(p,)"""
    variance: float
    """Of all these Gaussians."""
    erased: NDArray[np.bool_]
    """(p,): the pairs that a model is accused of."""

    def log_ratios(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihood ratio, IN to OUT, of a model's statistics (p,)."""
        away_in, away_out = statistics - self.mean_in, statistics - self.mean_out
        return (away_out**2 - away_in**2) / (2 * self.variance)

    def auc(self, statistics: NDArray[np.float64]) -> float | None:
        """AUC of telling erased pairs from test pairs by the ratios of a model's statistics (p,)."""
        return auc(self.log_ratios(statistics), self.erased.astype(np.float64))


def fit_attack(
    statistics: NDArray[np.float64], members: NDArray[np.bool_], erased: NDArray[np.bool_]
) -> MembershipAttack:
    """Fit the Gaussians: a mean for each pair, IN and OUT, and one variance.

    The variance is pooled over all pairs and both sides. A few shadows cannot tell a pair's own variance (the authors
    pool it, too, below some 64), and with one for both sides the ratio grows with the statistic wherever IN lies above
    OUT; two would let a statistic far below both count as IN.

    Args:
        statistics: (S, p), of the shadow models.
        members: (S, p), as ``shadow_members`` chose them.
        erased: (p,), see ``MembershipAttack``.
    """
    half = len(members) // 2
    inside, outside = (_of(statistics, side, half) for side in (members, ~members))
    variance = np.mean([inside.var(axis=0, ddof=1), outside.var(axis=0, ddof=1)])
    return MembershipAttack(
        mean_in=inside.mean(axis=0),
        mean_out=outside.mean(axis=0),
        variance=max(float(variance), _VARIANCE_FLOOR),
        erased=erased,
    )


def _of(statistics: NDArray[np.float64], side: NDArray[np.bool_], half: int) -> NDArray[np.float64]:
    """The statistics (S / 2, p) of the shadows on one side of each pair."""
    return statistics.T[side.T].reshape(-1, half).T


def _usable(pairs: Interactions, seen: list[Interactions], excluded_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of distinct pairs, the first of each, that are not among those seen and touch no excluded row."""
    _, first = np.unique(pairs.pairs, axis=0, return_index=True)
    first = np.sort(first)
    rows = pairs.pairs[first]
    base = 1 + max((int(part.pairs.max()) for part in [pairs, *seen] if len(part)), default=0)
    known = np.concatenate([part.pairs @ [base, 1] for part in seen])
    return first[~np.isin(rows @ [base, 1], known) & ~np.isin(rows, excluded_rows).any(axis=1)]


def _choose(positions: NDArray[np.int64], most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """At most so many of the positions (n,), ascending."""
    return np.sort(generator.permutation(positions)[:most])
