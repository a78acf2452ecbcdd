"""How close a model comes to retraining on the sample that a calibration unlearns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.candidates import log_ranks
from ifru_dist.evaluation.forgetting import logit_gap, logloss
from ifru_dist.models.parameters import Parameters
from ifru_dist.pipelines.calibration_sample import CalibrationSample
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.training.loop import Fitted
from ifru_dist.workspace.version import Version


@dataclass(frozen=True)
class Seen:
    """What a model makes of the sample (n,)."""

    scores: NDArray[np.float64]
    log_ranks: NDArray[np.float64] | None
    """log(1 + items that score higher) for the pair's user; None where models are judged by scores."""

    @property
    def finite(self) -> bool:
        """Whether all scores are."""
        return bool(np.isfinite(self.scores).all())


class Judge:
    """A retrained model, with which others are compared on the sample.

    A model that was trained to rank (bpr) is judged by the ranks of the sample's pairs, in the mean. Its scores are far
    out, and two trainings differ by more than what an erasure changes; as each row that moves adds to that, the damping
    of the smallest gap would be one that moves nothing.
    """

    def __init__(self, version: Version, sample: CalibrationSample, retrain: Callable[[], Fitted]) -> None:
        """``retrain`` trains without the sample; called when it is needed."""
        self._version, self._sample, self._retrain = version, sample, retrain
        self._spec, self._parameters = version.model.spec, version.parameters()
        self._ranks = self._spec.loss == "bpr" and self._spec.fields == 2

    @cached_property
    def original(self) -> Seen:
        """By the model as it is."""
        return self._seen(Scorer(self._spec, self._version.trained(), self._parameters))

    @cached_property
    def retrained(self) -> Seen:
        """By a model trained without the sample."""
        return self.seen(self._retrain().parameters)

    def seen(self, parameters: Parameters) -> Seen:
        """By some parameters, on the graph of the examples that are kept."""
        return self._seen(self._without_sample.with_parameters(parameters))

    def gap(self, seen: Seen) -> float:
        """Mean distance to the retrained model's scores of the sample, which is never empty."""
        gap = logit_gap(seen.scores, [self.retrained.scores])
        assert gap is not None
        return gap

    def rank_shift(self, seen: Seen) -> float | None:
        """Mean log rank less the retrained model's: less than 0 where too little is forgotten; None unless by ranks."""
        if seen.log_ranks is None or self.retrained.log_ranks is None:
            return None
        return float((seen.log_ranks - self.retrained.log_ranks).mean())

    @cached_property
    def nothing(self) -> float:
        """What is judged, of the model as it is."""
        shift = self.rank_shift(self.original)
        return self.gap(self.original) if shift is None else abs(shift)

    def logloss(self, seen: Seen) -> float | None:
        """Mean log loss on the sample; None where the model's scores are no logits."""
        return logloss(seen.scores, self._sample.sampled.labels, self._spec.loss)

    @cached_property
    def _without_sample(self) -> Scorer:
        """The model on the graph of the kept examples, which is built once for all parameters."""
        return Scorer(self._spec, self._sample.kept, self._parameters)

    def _seen(self, scorer: Scorer) -> Seen:
        """By a scorer."""
        scores, items = scorer.scores(self._sample.sampled), self._version.layout.items
        item_scores = scorer.item_scores(items) if self._ranks and np.isfinite(scores).all() else None
        return Seen(scores, None if item_scores is None else log_ranks(item_scores, self._sample.sampled.pairs, items))
