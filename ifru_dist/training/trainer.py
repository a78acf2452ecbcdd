"""One step of training: the gradient of a batch and Adam's move.

Shapes: N rows over all tables, d dimensions, n examples in a batch.

What a step costs is mostly Adam, which moves every row of the table whether the batch holds it or not: moving only the
batch's rows would be quicker, but it is another optimiser, and gives another model. All else touches the batch's rows
only: the gradient buffer (N, d) is allocated once, and only the rows of the step before are set to zero again. A graph
model adds two propagations of the whole table.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.models.base import Model
from ifru_dist.models.predict import score_interactions
from ifru_dist.models.propagation import Propagation


class Trainer:
    """Embeddings in training, with their graph, gradient buffer and optimiser."""

    def __init__(self, model: Model, embeddings: Tensor, edges: NDArray[np.int64], learning_rate: float) -> None:
        """Prepare to train ``embeddings`` (N, d) in place on the graph of ``edges`` (m, 2)."""
        self._model = model
        self._embeddings = embeddings
        self._propagation = Propagation(edges, len(embeddings), model.layer_weights, embeddings.dtype)
        self._gradient = torch.zeros_like(embeddings)
        self._optimiser = torch.optim.Adam([embeddings], lr=learning_rate, fused=True)

    def step(self, rows: Tensor, labels: Tensor) -> float:
        """One Adam step on the examples' objective; returns the objective before it.

        Args:
            rows: (n, 2), int64.
            labels: (n,).
        """
        objective, gradient = self.objective(rows, labels)
        self._embeddings.grad = gradient
        self._optimiser.step()
        self._gradient.index_fill_(0, rows.reshape(-1), 0.0)
        return objective

    def objective(self, rows: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Mean over the examples of loss + (l2 / 2) * squared norms of their rows, and its gradient (N, d).

        The gradient may be the reused buffer, which ``step`` clears again. Autograd takes it with respect to the
        gathered rows alone, so nothing here knows how the model scores them.
        """
        flat = rows.reshape(-1)
        gathered = self._propagation.apply(self._embeddings).index_select(0, flat).requires_grad_()
        mean_loss = self._model.loss.value(self._model.score(gathered.view(len(rows), 2, -1)), labels).mean()
        self._gradient.index_add_(0, flat, torch.autograd.grad(mean_loss, gathered)[0])
        gradient = self._propagation.apply(self._gradient)
        objective = mean_loss.item()
        if self._model.l2 > 0:
            own_rows = self._embeddings.index_select(0, flat)
            gradient.index_add_(0, flat, own_rows, alpha=self._model.l2 / len(rows))
            objective += 0.5 * self._model.l2 / len(rows) * own_rows.square().sum().item()
        return objective, gradient

    def scores(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Scores (n,) of row pairs (n, 2) by the current embeddings."""
        return score_interactions(self._model, self._propagation.apply(self._embeddings), rows)
