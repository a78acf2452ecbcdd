"""LightGCN: dot products of embeddings that were averaged over the layers of a linear propagation."""

from dataclasses import dataclass

from torch import Tensor

from ifru_dist.models.losses import Loss


@dataclass(frozen=True, kw_only=True)
class LightGCN:
    """Light graph convolution (He et al., arXiv 2002.02126) with equal layer weights 1 / (layers + 1)."""

    loss: Loss
    l2: float
    layers: int
    l2_row: float = 0.0
    name: str = "lightgcn"

    @property
    def layer_weights(self) -> tuple[float, ...]:
        """Weight of A^k E in the propagated embeddings, for k = 0 .. layers."""
        return (1.0 / (self.layers + 1),) * (self.layers + 1)

    def score(self, rows: Tensor) -> Tensor:
        """Dot products (n,) of propagated row pairs (n, 2, d)."""
        return (rows[:, 0] * rows[:, 1]).sum(dim=-1)
