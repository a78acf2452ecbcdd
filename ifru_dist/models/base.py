"""The wall between the models and the rooms that train, evaluate and unlearn them.

Shapes: N rows over all tables (users first, then items), d dimensions, n examples.
An example is a pair of rows (user row, item row) in this numbering and a label.
"""

from typing import Protocol

from torch import Tensor

from ifru_dist.models.losses import Loss


class Model(Protocol):
    """A dot-product model on linearly propagated embeddings: F = sum_k layer_weights[k] A^k E.

    A is the symmetrically normalised adjacency of the training positives. Matrix factorisation has
    ``layer_weights == (1.0,)``, so F = E and the graph is never read.
    """

    @property
    def name(self) -> str:
        """Name in a model's record."""

    @property
    def loss(self) -> Loss:
        """Loss of one example."""

    @property
    def l2(self) -> float:
        """Factor of the regulariser of one example: (l2 / 2) * squared norms of its rows of E."""

    @property
    def l2_row(self) -> float:
        """Factor of the weight decay of one row, once whatever its examples: (l2_row / 2) * its squared norm in E."""

    @property
    def layer_weights(self) -> tuple[float, ...]:
        """Weight of each power of A."""

    def score(self, rows: Tensor) -> Tensor:
        """Scores (n,) of propagated rows (n, 2, d)."""
