"""Scores of a version's model, as evaluation sees them."""

from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray

from ifru_dist.evaluation.ranking import auc
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.predict import score_interactions
from ifru_dist.models.propagation import Propagation
from ifru_dist.models.spec import ModelSpec


class Scorer:
    """A model ready to score: embeddings, propagated over the graph of the examples it stands on."""

    def __init__(self, spec: ModelSpec, graph: Interactions, embeddings: NDArray[np.float32]) -> None:
        """Propagate once.

        Args:
            spec: The model.
            graph: The examples whose positives make the propagation graph.
            embeddings: (N, dim) in global row order.
        """
        self._model = build_model(spec)
        weights = self._model.layer_weights
        self._propagation = Propagation(graph.positives(), len(embeddings), weights, torch.float32)
        self._outputs = self._propagation.apply(torch.from_numpy(embeddings))

    def with_embeddings(self, embeddings: NDArray[np.float32]) -> "Scorer":
        """The same model with other embeddings (N, dim), on the same graph, which is not built again."""
        other = copy(self)
        other._outputs = self._propagation.apply(torch.from_numpy(embeddings))
        return other

    @property
    def outputs(self) -> NDArray[np.float32]:
        """Propagated embeddings (N, dim); the score of a pair is the dot product of its rows."""
        return self._outputs.numpy()

    def scores(self, pairs: Interactions) -> NDArray[np.float64]:
        """Scores (n,) of pairs."""
        return np.asarray(score_interactions(self._model, self._outputs, pairs.rows), dtype=np.float64)

    def auc(self, pairs: Interactions) -> float | None:
        """AUC on pairs; None where they hold one class only."""
        return auc(self.scores(pairs), pairs.labels)
