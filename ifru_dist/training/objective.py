"""The training objective: its value and gradient on a batch, or on all examples at once.

Shapes: N rows over all tables, w columns of a row, n examples in a batch.

The gradient buffer (N, w) is allocated once, and only the rows of the batch before are set to zero again. A graph
model adds two propagations of the whole table, weight decay per row (``l2_row``) a pass over it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.models.base import Model
from ifru_dist.models.predict import Predictor
from ifru_dist.models.propagation import Propagation

# Of a full batch. The gathered rows of a chunk are held several times, (n, arity, w) each: so few of them stay in the
# cache, which halved the time of a full batch of 60,000. The usual mini-batch is one chunk.
_EXAMPLES_AT_ONCE = 1 << 13


class TrainingObjective:
    """Parameters in training, with their graph and gradient buffers."""

    def __init__(
        self, model: Model, embeddings: Tensor, dense: dict[str, Tensor], edges: NDArray[np.int64], n_examples: int
    ) -> None:
        """Prepare for parameters that may change between calls.

        Args:
            model: the model in training.
            embeddings: (N, w).
            dense: the model's own parameters, in the type of the embeddings.
            edges: (m, 2), the graph.
            n_examples: of the whole training set; what the weight decays are divided by.
        """
        self.embeddings = embeddings
        self.dense = dense
        self._model = model
        self._propagation = Propagation(edges, len(embeddings), model.layer_weights, embeddings.dtype)
        self._gradient = torch.zeros_like(embeddings)
        self._dense_gradient = [torch.zeros_like(values) for values in dense.values()]
        self._row_decay = model.l2_row / n_examples
        self._dense_decay = model.l2_dense / n_examples

    @property
    def parameters(self) -> list[Tensor]:
        """All that is trained: the embeddings, then the model's own parameters."""
        return [self.embeddings, *self.dense.values()]

    def value_and_gradient(self, rows: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
        """The mean objective of the examples, and its gradient by each of ``parameters``.

        Mean over the examples of loss + (l2 / 2) * squared norms of their rows, plus the share of one example in the
        weight decay of all rows, (l2_row / 2) * squared norm of the table / n_examples, and in that of the model's own
        parameters, (l2_dense / 2) * their squared norm / n_examples. Over all examples this is the summed objective
        divided by their number. The gradients may be the reused buffers: ``clear`` them before the next call. Autograd
        takes them with respect to the gathered rows alone, so nothing here knows how the model scores.

        Args:
            rows: (n, arity), int64.
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
        if self._dense_decay > 0:
            for total, values in zip(self._dense_gradient, self.dense.values(), strict=True):
                total.add_(values, alpha=self._dense_decay)
                objective += 0.5 * self._dense_decay * values.square().sum().item()
        return objective, [gradient, *self._dense_gradient]

    def _add_loss(self, outputs: Tensor, rows: Tensor, labels: Tensor, n: int) -> float:
        """Add these examples' share in the gradient of the mean loss of n examples; returns their share in it."""
        flat = rows.reshape(-1)
        gathered = outputs.index_select(0, flat).requires_grad_()
        dense = {name: values.detach().requires_grad_() for name, values in self.dense.items()}
        score = self._model.score(gathered.view(*rows.shape, -1), dense)
        share = self._model.loss.value(score, labels).mean()
        if len(rows) < n:
            share = share * (len(rows) / n)
        of_rows, *of_dense = torch.autograd.grad(share, [gathered, *dense.values()], materialize_grads=True)
        self._gradient.index_add_(0, flat, of_rows)
        for total, part in zip(self._dense_gradient, of_dense, strict=True):
            total.add_(part)
        return share.item()

    def clear(self, rows: Tensor) -> None:
        """Set the buffers to zero after a call with ``rows`` (n, arity)."""
        if self._row_decay > 0:  # which reached every row
            self._gradient.zero_()
        else:
            self._gradient.index_fill_(0, rows.reshape(-1), 0.0)
        for buffer in self._dense_gradient:
            buffer.zero_()

    def predictor(self) -> Predictor:
        """What scores by the parameters as they are now."""
        return Predictor(self._model, self._propagation.apply(self.embeddings), self.dense)
