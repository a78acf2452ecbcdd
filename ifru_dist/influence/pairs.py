"""What the loops over pairs read and return: the examples of a block whose score is a dot product.

Shapes: n rows, e edges, h rows at the far ends ("halo"), k of them that move, d columns.
"""

from dataclasses import dataclass

from torch import Tensor

from ifru_dist.models.losses import Loss


@dataclass(frozen=True, kw_only=True)
class PairEdges:
    """The edges of a block, in CSR form."""

    indptr: Tensor
    """(n + 1,) int64."""
    col: Tensor
    """(e,) int32: where the far end stands among the halo."""
    label: Tensor
    """(e,) float64."""
    factor: Tensor
    """(e,) float64: of the example's loss."""
    erased: Tensor
    """(e,) bool: whether the example goes."""
    loss: Loss


@dataclass(frozen=True, kw_only=True)
class PairValues:
    """The pairs at one place, and what they sum to at each row."""

    score: Tensor
    """(e,) float64."""
    value: Tensor
    """(e,) loss."""
    error: Tensor
    """(e,) its derivative by the score."""
    weight: Tensor
    """(e,) its second derivative times the factor; 0 where the example goes."""
    kept: Tensor
    """(n, d): gradient of the losses that stay."""
    gone: Tensor
    """(n, d): gradient of those that go."""
    diagonal: Tensor
    """(n, d): sum of weight * b^2 over the far ends b."""


@dataclass(frozen=True, kw_only=True)
class MovedPairs:
    """The pairs at another place than the start."""

    error: Tensor
    """(e,)."""
    weight: Tensor
    """(e,), as above."""
    less: Tensor
    """(n, d): gradient of all losses at the start less that of those that stay now, formed edge by edge."""
    diagonal: Tensor
    """(n, d), as above."""
    loss_change: Tensor
    """(n, 1): by how much the losses that stay have changed, half of it where the far end moves, which has the rest."""
