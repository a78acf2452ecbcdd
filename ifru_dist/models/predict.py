"""Scores of many pairs by a model whose embeddings are already propagated."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.models.base import Model

_PAIRS_AT_ONCE = 1 << 16


def score_interactions(model: Model, propagated: Tensor, rows: NDArray[np.int64]) -> NDArray[np.floating]:
    """Scores (n,) of row pairs (n, 2), in the type of the embeddings.

    Args:
        model: scores propagated rows.
        propagated: (N, d), what ``Propagation.apply`` made of the embeddings.
        rows: (n, 2), global rows; gathered in chunks, so that memory does not grow with n * d.
    """
    scores = torch.empty(len(rows), dtype=propagated.dtype)
    with torch.no_grad():
        for start in range(0, len(rows), _PAIRS_AT_ONCE):
            chunk = torch.tensor(rows[start : start + _PAIRS_AT_ONCE])
            scores[start : start + len(chunk)] = model.score(propagated[chunk])
    return scores.numpy()
