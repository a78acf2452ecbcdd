"""The training objective: its value and gradient on a batch, or on all examples at once.

Shapes: N rows over all tables, d dimensions, n examples in a batch.

The gradient buffer (N, d) is allocated once, and only the rows of the batch before are set to zero again. A graph
model adds two propagations of the whole table, weight decay per row (``l2_row``) a pass over it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.models.base import Model
from ifru_dist.models.predict import score_interactions
from ifru_dist.models.propagation import Propagation

# Of a full batch. The gathered rows of a chunk are held several times, (n, 2, d) each: so few of them stay in the
# cache, which halved the time of a full batch of 60,000. The usual mini-batch is one chunk.
_EXAMPLES_AT_ONCE = 1 << 13


class TrainingObjective:
    """Embeddings in training, with their graph and gradient buffer."""

    def __init__(self, model: Model, embeddings: Tensor, edges: NDArray[np.int64], n_examples: int) -> None:
        """Prepare for ``embeddings`` (N, d), which may change between calls.

        Args:
            model: the model in training.
            embeddings: (N, d).
            edges: (m, 2), the graph.
            n_examples: of the whole training set; what the weight decay per row is divided by.
        """
        self.embeddings = embeddings
        self._model = model
        self._propagation = Propagation(edges, len(embeddings), model.layer_weights, embeddings.dtype)
        self._gradient = torch.zeros_like(embeddings)
        self._row_decay = model.l2_row / n_examples

    def value_and_gradient(self, rows: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """The mean objective of the examples, and its gradient (N, d).

        Mean over the examples of loss + (l2 / 2) * squared norms of their rows, plus the share of one example in the
        weight decay of all rows, (l2_row / 2) * squared norm of the table / n_examples. Over all examples this is the
        summed objective divided by their number. The gradient may be the reused buffer: ``clear`` it before the next
        call. Autograd takes it with respect to the gathered rows alone, so nothing here knows how the model scores.

        Args:
            rows: (n, 2), int64.
            labels: (n,), of the embeddings' type.
        """
        outputs = self._propagation.apply(self.embeddings)
        objective = 0.0
        for start in range(0, len(rows), _EXAMPLES_AT_ONCE):
            chunk = slice(start, start + _EXAMPLES_AT_ONCE)
            objective += self._add_loss(outputs, rows[chunk], labels[chunk], len(rows))
        gradient = self._propagation.apply(self._gradient)
        if self._model.l2 > 0:
            for start in range(0, len(rows), _EXAMPLES_AT_ONCE):
                flat = rows[start : start + _EXAMPLES_AT_ONCE].reshape(-1)
                own_rows = self.embeddings.index_select(0, flat)
                gradient.index_add_(0, flat, own_rows, alpha=self._model.l2 / len(rows))
                objective += 0.5 * self._model.l2 / len(rows) * own_rows.square().sum().item()
        if self._row_decay > 0:
            gradient.add_(self.embeddings, alpha=self._row_decay)
            objective += 0.5 * self._row_decay * torch.linalg.vector_norm(self.embeddings).item() ** 2
        return objective, gradient

    def _add_loss(self, outputs: Tensor, rows: Tensor, labels: Tensor, n: int) -> float:
        """Add these examples' share in the gradient of the mean loss of n examples; returns their share in it."""
        flat = rows.reshape(-1)
        gathered = outputs.index_select(0, flat).requires_grad_()
        share = self._model.loss.value(self._model.score(gathered.view(len(rows), 2, -1)), labels).mean()
        if len(rows) < n:
            share = share * (len(rows) / n)
        self._gradient.index_add_(0, flat, torch.autograd.grad(share, gathered)[0])
        return share.item()

    def clear(self, rows: Tensor) -> None:
        """Set the buffer to zero after a call with ``rows`` (n, 2)."""
        if self._row_decay > 0:  # which reached every row
            self._gradient.zero_()
        else:
            self._gradient.index_fill_(0, rows.reshape(-1), 0.0)

    def scores(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Scores (n,) of row pairs (n, 2) by the current embeddings."""
        return score_interactions(self._model, self._propagation.apply(self.embeddings), rows)
