"""Matrix factorisation: the score of a pair is the dot product of its two embedding rows."""

from dataclasses import dataclass

from torch import Tensor

from ifru_dist.models.losses import Loss


@dataclass(frozen=True, kw_only=True)
class MatrixFactorisation:
    """Embeddings are scored as they are; no graph is read."""

    loss: Loss
    l2: float
    l2_row: float = 0.0
    name: str = "mf"
    layer_weights: tuple[float, ...] = (1.0,)

    def score(self, rows: Tensor) -> Tensor:
        """Dot products (n,) of row pairs (n, 2, d)."""
        return (rows[:, 0] * rows[:, 1]).sum(dim=-1)
