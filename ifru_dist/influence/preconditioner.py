"""What conjugate gradients are preconditioned by."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import Curvature

PreconditionerKind = Literal["diagonal", "block", "auto"]

BLOCK_COST = 0.7
"""What forming and factoring all blocks costs, in products for each dimension: about 30 products on Book-Crossing
(d = 48), where they saved up to nine tenths of the iterations; blocks of some rows, chosen by degree, saved few."""
_FLOOR = 1e-8
"""What is added to a block's diagonal, relative to its largest entry."""


class Preconditioner(Protocol):
    """A symmetric positive definite matrix M that is easily solved with."""

    def solve(self, residual: Tensor, out: Tensor) -> Tensor:
        """M^-1 residual (m, d), written to ``out`` and returned."""


class Diagonal:
    """The diagonal."""

    def __init__(self, diagonal: Tensor) -> None:
        """``diagonal`` (m, d); where it is not positive (a row without curvature) the scale is left as it is."""
        self._diagonal = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))

    def solve(self, residual: Tensor, out: Tensor) -> Tensor:
        """Residual / diagonal."""
        return torch.div(residual, self._diagonal, out=out)


class Blocks:
    """The d x d blocks of some rows, and the diagonal of the others."""

    def __init__(self, diagonal: Tensor, chosen: Tensor, blocks: Tensor, kernels: Kernels) -> None:
        """Factor the blocks (b, d, d) of the chosen rows (b,), which must be positive definite."""
        self._others, self._chosen, self._kernels = Diagonal(diagonal), chosen, kernels
        self._factors = kernels.factor(blocks)

    def solve(self, residual: Tensor, out: Tensor) -> Tensor:
        """M^-1 residual."""
        self._others.solve(residual, out)
        values = residual.to(torch.float64, copy=True)
        self._kernels.solve_blocks(self._factors, self._chosen, values)
        out[self._chosen] = values[self._chosen].to(out.dtype)
        return out


def make_preconditioner(
    curvature: Curvature,
    damping: Tensor,
    kind: PreconditionerKind,
    kernels: Kernels,
    iterations: int,
    dtype: torch.dtype = torch.float64,
) -> Preconditioner:
    """The preconditioner of a curvature with Lambda (m, 1) added.

    Rows without curvature of their own have no block that could be factored: their diagonal serves.

    Args:
        curvature: Of one Newton step.
        damping: (m, 1).
        kind: ``auto``: the blocks where an earlier step took more iterations than they cost, the diagonal before.
        kernels: Edge loops.
        iterations: The most that an earlier step of the descent took.
        dtype: Of the vectors that it is for.
    """
    diagonal = curvature.diagonal + damping
    if kind == "diagonal" or (kind == "auto" and iterations <= BLOCK_COST * diagonal.shape[1]):
        return Diagonal(diagonal.to(dtype))
    chosen = torch.nonzero((diagonal > 0).all(dim=1)).flatten()
    blocks = curvature.blocks(chosen)
    if blocks is None:
        return Diagonal(diagonal.to(dtype))
    # A row with fewer edges than dimensions has a singular block unless something is added to it.
    floor = _FLOOR * diagonal[chosen].max(dim=1, keepdim=True).values if len(chosen) else damping[chosen]
    blocks.diagonal(dim1=1, dim2=2).add_(damping[chosen] + floor)
    return Blocks(diagonal.to(dtype), chosen, blocks, kernels)
