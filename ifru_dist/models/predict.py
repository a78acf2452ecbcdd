"""Scores of many examples by a model whose embeddings are already propagated."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.models.base import Dense, Model

ItemScores = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Scores (n, items) of users (n,), global rows, with all items."""

_EXAMPLES_AT_ONCE = 1 << 16


def score_interactions(model: Model, propagated: Tensor, dense: Dense, rows: NDArray[np.int64]) -> NDArray[np.floating]:
    """Scores to rank by (n,) of row tuples (n, fields), in the type of the embeddings.

    Args:
        model: scores propagated rows.
        propagated: (N, width), what ``Propagation.apply`` made of the embeddings.
        dense: the model's own parameters, in the same type.
        rows: (n, fields), global rows; gathered in chunks, so that memory does not grow with n * width.
    """
    scores = torch.empty(len(rows), dtype=propagated.dtype)
    with torch.no_grad():
        for start in range(0, len(rows), _EXAMPLES_AT_ONCE):
            chunk = torch.tensor(rows[start : start + _EXAMPLES_AT_ONCE])
            scores[start : start + len(chunk)] = model.predict(propagated[chunk], dense)
    return scores.numpy()


@dataclass(frozen=True)
class Predictor:
    """A model ready to score: its embeddings are propagated."""

    model: Model
    outputs: Tensor
    """(N, width), what ``Propagation.apply`` made of the embeddings."""
    dense: Dense
    """The model's own parameters, in the same type."""

    def scores(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Scores to rank by (n,) of row tuples (n, fields)."""
        return score_interactions(self.model, self.outputs, self.dense, rows)

    def item_scores(self, items: range) -> ItemScores:
        """What scores users (n,) with all of these items, (n, items), by a model of two fields.

        Dot products are one product of matrices in float64; other models score pair by pair, in their own type.
        """
        if self.model.scorer.dot_product:
            outputs = self.outputs.numpy()
            table = outputs[items.start : items.stop].astype(np.float64).T
            return lambda users: outputs[users].astype(np.float64) @ table
        return lambda users: self._pair_scores(users, np.array(items))

    def _pair_scores(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores (n, m) of each user (n,) with each item (m,)."""
        pairs = np.stack([np.repeat(users, len(items)), np.tile(items, len(users))], axis=1)
        return self.scores(pairs).astype(np.float64).reshape(len(users), len(items))
