"""The pairs of a version that all its models are measured on: the current one, the original, and retrained ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.evaluation.candidates import Candidates
from ifru_dist.evaluation.forgetting import HeldLabels, PairScores
from ifru_dist.evaluation.membership import AttackPool, attack_pool
from ifru_dist.evaluation.ranking import touched_aucs, touched_masks
from ifru_dist.evaluation.recovery import Recovery
from ifru_dist.interactions import Interactions
from ifru_dist.models.parameters import Parameters
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.validating import top_k_question
from ifru_dist.workspace.appending import moved
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is kept of a model once its parameters are gone."""

    scores: PairScores
    figures: dict[str, float | None]
    """Those that need no other model: AUC; recall and NDCG where users have test positives; recovery where there was an
    erasure."""


class Measurement:
    """The erased and the test pairs of a version, and what is asked about them."""

    def __init__(self, version: Version) -> None:
        """Read the pairs."""
        self.version = version
        self.n_erased = _erased_count(version)
        self.erased = _erased_since_training(version)
        self.kept, self.test = version.trained(), version.held_out("test")
        self.touched_rows = np.unique(self.erased.pairs)
        touched = touched_masks(self.test, self.touched_rows)["auc_or"]
        self.labels = HeldLabels(
            erased=self.erased.labels, test=self.test.labels, test_touched=touched, loss=version.model.spec.loss
        )
        self._forgotten = version.forgotten_rows()
        sizes = version.layout.sizes[0], version.layout.sizes[1]
        candidates = Candidates(known=self.kept.pairs, sizes=sizes, excluded_rows=self._forgotten)
        self.recovery = Recovery(self.erased, candidates)
        self._top_k = top_k_question(version, version.model.spec, self.kept, self.test)

    def of_model(self, graph: Interactions, parameters: Parameters) -> Measured:
        """A model with these parameters on the graph of these examples."""
        scorer = self.scorer(graph, parameters)
        scores, item_scores = self.scores(scorer), scorer.item_scores(self.recovery.items)
        figures = touched_aucs(scores.test, self.test, self.touched_rows)
        figures |= self._top_k.figures(item_scores) if self._top_k.users else {}
        figures |= self.recovery.figures(item_scores) if len(self.erased) else {}
        return Measured(scores=scores, figures=figures)

    def scorer(self, graph: Interactions, parameters: Parameters) -> Scorer:
        """What scores pairs with these parameters on the graph of these examples."""
        return Scorer(self.version.model.spec, graph, parameters)

    def scores(self, scorer: Scorer) -> PairScores:
        """A model's scores of the erased and the test pairs."""
        return PairScores(erased=scorer.scores(self.erased), test=scorer.scores(self.test))

    def attack_pool(self, most: int, seed: int) -> AttackPool:
        """Erased and touched test pairs, at most so many of either, that are in none of the kept data."""
        return attack_pool(self.erased, self.test, self.kept, excluded_rows=self._forgotten, most=most, seed=seed)


def _erased_since_training(version: Version) -> Interactions:
    """The examples erased since the model was trained; none where the version that holds them was vacuumed."""
    if not version.has_original:
        return version.trained().take(np.empty(0, np.int64))
    original = version.original()
    return moved(original.all_examples().take(_erased_ids(version)), original.layout, version.layout)


def _erased_count(version: Version) -> int:
    """How many of the examples that the model was trained on were erased since."""
    if version.has_original:
        return len(_erased_ids(version))
    return version.trained_interactions - len(version.trained())


def _erased_ids(version: Version) -> NDArray[np.int64]:
    """Ids of the examples that the original model was trained on and that were erased since."""
    erased = version.erased_since(version.original())
    return erased[erased < version.trained_bound]
