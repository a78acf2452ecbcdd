"""LightGCN: dot products of embeddings that were averaged over the layers of a linear propagation."""

from typing import ClassVar

from torch import Tensor

from ifru_dist.models.base import Dense, Model


class LightGCN(Model):
    """Light graph convolution (He et al., arXiv 2002.02126) with equal layer weights 1 / (layers + 1)."""

    dot_product: ClassVar[bool] = True

    @property
    def layer_weights(self) -> tuple[float, ...]:
        """Weight of A^k E in the propagated embeddings, for k = 0 .. layers."""
        return (1.0 / (self.spec.layers + 1),) * (self.spec.layers + 1)

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """Dot products (n,) of propagated row pairs (n, 2, d)."""
        return (rows[:, 0] * rows[:, 1]).sum(dim=-1)
