"""Linear propagation of embeddings over the graph of the training positives.

Shapes: N rows over all tables, d dimensions, m edges. Every edge is stored in both directions, sorted by the
receiving row, so that one layer is one weighted ``embedding_bag``: per entry the fastest of the sparse products
that torch offers on a CPU.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Propagation:
    """P = sum_k layer_weights[k] A^k with A = D^-1/2 (B + B^T) D^-1/2, the normalised adjacency.

    Parallel edges count with their multiplicity. A row without edges has a zero row in A, so it keeps
    ``layer_weights[0]`` of its own embedding. With the weights (1.0,) nothing is built and nothing is computed.
    """

    def __init__(
        self, edges: NDArray[np.int64], n_rows: int, layer_weights: tuple[float, ...], dtype: torch.dtype
    ) -> None:
        """Sort the edges by receiving row.

        Args:
            edges: (m, 2), global rows of the pairs; the order within a pair does not matter.
            n_rows: N.
            layer_weights: weight of A^k for k = 0 .. layers.
            dtype: of the embeddings that will be propagated.
        """
        self.layer_weights = layer_weights
        if len(layer_weights) == 1:
            return
        receivers = np.concatenate([edges[:, 0], edges[:, 1]])
        senders = np.concatenate([edges[:, 1], edges[:, 0]])
        order = np.argsort(receivers, kind="stable")
        receivers, senders = receivers[order], senders[order]
        degrees = np.bincount(receivers, minlength=n_rows)
        weights = 1.0 / np.sqrt(degrees[receivers] * degrees[senders].astype(np.float64))
        index_type = np.int32 if len(receivers) < np.iinfo(np.int32).max else np.int64
        self._senders = torch.from_numpy(senders.astype(index_type))
        self._offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(degrees)]).astype(index_type))
        self._weights = torch.from_numpy(weights).to(dtype)

    def apply(self, embeddings: Tensor) -> Tensor:
        """P E for E (N, d); P is symmetric, so this is also the product with its transpose.

        With a single layer weight of 1 the result is ``embeddings`` itself, not a copy.
        """
        if self.layer_weights == (1.0,):
            return embeddings
        layer, result = embeddings, self.layer_weights[0] * embeddings
        for weight in self.layer_weights[1:]:
            layer = self._adjacency_product(layer)
            result.add_(layer, alpha=weight)
        return result

    def _adjacency_product(self, embeddings: Tensor) -> Tensor:
        """A E, (N, d)."""
        return torch.nn.functional.embedding_bag(
            self._senders,
            embeddings,
            self._offsets,
            mode="sum",
            per_sample_weights=self._weights,
            include_last_offset=True,
        )
