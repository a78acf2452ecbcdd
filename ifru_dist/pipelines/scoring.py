"""Scores of a version's model, as evaluation sees them."""

from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray

from ifru_dist.evaluation.ranking import auc
from ifru_dist.interactions import Interactions
from ifru_dist.models.checking import check_score
from ifru_dist.models.factory import build_model
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.predict import ItemScores, Predictor
from ifru_dist.models.propagation import Propagation
from ifru_dist.models.spec import ModelSpec


class Scorer:
    """A model ready to score: embeddings, propagated over the graph of the examples it stands on."""

    def __init__(self, spec: ModelSpec, graph: Interactions, parameters: Parameters) -> None:
        """Propagate once.

        Args:
            spec: The model.
            graph: The examples whose positives make the propagation graph.
            parameters: Embeddings (N, width) in global row order, and the model's own parameters.

        Raises:
            ConfigError: the model's class cannot be imported, or does not score these parameters.
        """
        self._model = build_model(spec)
        check_score(self._model, parameters.embeddings.shape[1], parameters.dense_tensors(torch.float32))
        weights, n_rows = self._model.layer_weights, len(parameters.embeddings)
        self._propagation = Propagation(graph.positives(), n_rows, weights, torch.float32)
        self._predictor = self._predicting(parameters)

    def with_parameters(self, parameters: Parameters) -> "Scorer":
        """The same model with other parameters, on the same graph, which is not built again."""
        other = copy(self)
        other._predictor = self._predicting(parameters)
        return other

    def _predicting(self, parameters: Parameters) -> Predictor:
        """What scores with some parameters."""
        outputs = self._propagation.apply(torch.from_numpy(parameters.embeddings))
        return Predictor(self._model, outputs, parameters.dense_tensors(torch.float32))

    @property
    def outputs(self) -> NDArray[np.float32]:
        """Propagated embeddings (N, width)."""
        return self._predictor.outputs.numpy()

    def scores(self, pairs: Interactions) -> NDArray[np.float64]:
        """Scores (n,) of pairs."""
        return np.asarray(self._predictor.scores(pairs.rows), dtype=np.float64)

    def item_scores(self, items: range) -> ItemScores | None:
        """What scores users with all of these items; None for a model of more than two fields.

        What the further fields of an item would be that a user has never met is not known.
        """
        return self._predictor.item_scores(items) if self._model.spec.fields == 2 else None

    def auc(self, pairs: Interactions) -> float | None:
        """AUC on pairs; None where they hold one class only."""
        return auc(self.scores(pairs), pairs.labels)
