"""Models trained as a version's model was: references without the erased data, shadows for the membership attack."""

import hashlib
from dataclasses import dataclass

import numpy as np

from ifru_dist.evaluation.forgetting import HeldLabels, PairScores
from ifru_dist.evaluation.membership import AttackPool, MembershipAttack, fit_attack, shadow_members
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.measuring import Measured, Measurement
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.validating import validation_of
from ifru_dist.training.loop import Fitted, TrainOptions, fit
from ifru_dist.workspace.version import Version


def calibration_seed(model_seed: int, seed: int) -> int:
    """The seed of a calibration's retraining, from those of the model and of the calibration: under 2^32.

    References and shadows of an evaluation have the seeds that follow the model's. Hashing leads away from these, so
    that a damping is not judged by the very model it was fitted to.
    """
    digest = hashlib.blake2b(f"calibrate:{model_seed}:{seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def train_reference(version: Version, data: Interactions, seed: int) -> Fitted:
    """Train on interactions as the version's model was trained, but for the seed.

    Raises:
        InputError: there is nothing to train on.
        TrainingError: training diverged.
    """
    options = TrainOptions(**{**version.model.options, "seed": seed})
    spec = version.model.spec
    validation, forgotten = validation_of(version, spec, data), version.forgotten_rows()
    return fit(spec, version.layout.sizes, data, validation, options, forgotten=forgotten, show_progress=True)


def measure_references(measurement: Measurement, count: int, seed: int) -> tuple[list[Measured], list[float]]:
    """Train references on what is left, with the seeds from ``seed`` on: what each measures, and its seconds."""
    measured, seconds = [], []
    for number in range(count):
        say(f"training reference {number + 1} of {count} (seed {seed + number})")
        fitted = train_reference(measurement.version, measurement.kept, seed + number)
        measured.append(measurement.of_model(measurement.kept, fitted.parameters))
        seconds.append(fitted.seconds)
    return measured, seconds


@dataclass(frozen=True, kw_only=True)
class ShadowAttack:
    """A membership attack, or why there is none."""

    pool: AttackPool
    fitted: MembershipAttack | None
    """None where the pool is too small."""
    seconds: list[float]
    """Of each shadow's training."""

    def auc(self, scores: PairScores, labels: HeldLabels) -> float | None:
        """The attack's AUC on a model; None where there is none."""
        return self.fitted.auc(self.pool.statistics(scores, labels)) if self.fitted else None


def train_attack(measurement: Measurement, shadows: int, most: int, seed: int) -> ShadowAttack:
    """Train shadows on the kept data and half of the pool each, and fit the attack to them.

    Args:
        measurement: the pairs.
        shadows: an even number, 4 or more.
        most: pairs of either kind in the pool at most.
        seed: of the first shadow, of the pool and of its halves.
    """
    pool = measurement.attack_pool(most, seed)
    if pool.too_small():
        return ShadowAttack(pool=pool, fitted=None, seconds=[])
    pairs, members = pool.pairs(measurement.erased, measurement.test), shadow_members(len(pool), shadows, seed)
    statistics, seconds = [], []
    for number, chosen in enumerate(members):
        say(f"training shadow {number + 1} of {shadows} (seed {seed + number})")
        data = measurement.kept.joined(pairs.take(chosen))
        fitted = train_reference(measurement.version, data, seed + number)
        scores = measurement.scores(measurement.scorer(data, fitted.parameters))
        statistics.append(pool.statistics(scores, measurement.labels))
        seconds.append(fitted.seconds)
    erased = np.arange(len(pool)) < len(pool.erased)
    return ShadowAttack(pool=pool, fitted=fit_attack(np.array(statistics), members, erased), seconds=seconds)
