"""The pairs of a version that all its models are measured on: the current one, the original, and retrained ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.forgetting import HeldLabels, PairScores
from ifru_dist.evaluation.membership import AttackPool, attack_pool
from ifru_dist.evaluation.ranking import touched_aucs, touched_masks
from ifru_dist.evaluation.recovery import Candidates, Recovery
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is kept of a model once its embeddings are gone."""

    scores: PairScores
    figures: dict[str, float | None]
    """Those that need no other model: AUC, and recovery where something was erased."""


class Measurement:
    """The erased and the test pairs of a version, and what is asked about them."""

    def __init__(self, version: Version) -> None:
        """Read the pairs."""
        self.version = version
        self.erased = _erased_since_training(version)
        self.kept, self.test = version.train(), version.held_out("test")
        self.touched_rows = np.unique(self.erased.rows)
        touched = touched_masks(self.test, self.touched_rows)["auc_or"]
        self.labels = HeldLabels(erased=self.erased.labels, test=self.test.labels, test_touched=touched)
        self._forgotten = version.forgotten_rows()
        users, items = version.layout.sizes
        candidates = Candidates(kept=self.kept.rows, sizes=(users, items), excluded_rows=self._forgotten)
        self.recovery = Recovery(self.erased, candidates)

    def of_model(self, graph: Interactions, embeddings: NDArray[np.float32]) -> Measured:
        """A model with embeddings (N, dim) on the graph of these examples."""
        scorer = self.scorer(graph, embeddings)
        scores = self.scores(scorer)
        figures = touched_aucs(scores.test, self.test, self.touched_rows)
        recovery = self.recovery.figures(scorer.outputs) if len(self.erased) else {}
        return Measured(scores=scores, figures={**figures, **recovery})

    def scorer(self, graph: Interactions, embeddings: NDArray[np.float32]) -> Scorer:
        """What scores pairs with embeddings (N, dim) on the graph of these examples."""
        return Scorer(self.version.model.spec, graph, embeddings)

    def scores(self, scorer: Scorer) -> PairScores:
        """A model's scores of the erased and the test pairs."""
        return PairScores(erased=scorer.scores(self.erased), test=scorer.scores(self.test))

    def attack_pool(self, most: int, seed: int) -> AttackPool:
        """Erased and touched test pairs, at most so many of either, that are in none of the kept data."""
        return attack_pool(self.erased, self.test, self.kept, excluded_rows=self._forgotten, most=most, seed=seed)


def _erased_since_training(version: Version) -> Interactions:
    """The examples erased since the model was trained."""
    ids = np.setdiff1d(version.erased_ids(), version.original().erased_ids(), assume_unique=True)
    return version.all_examples().take(ids)
