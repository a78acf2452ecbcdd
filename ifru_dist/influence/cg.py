"""Preconditioned conjugate gradients on vectors that are spread over workers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ifru_dist.influence.reduction import InnerProducts

Status = Literal["converged", "max_iterations", "not_positive_definite", "not_finite"]

REMEDIES: dict[Status, str] = {
    "converged": "",
    "max_iterations": "the update is usable but inexact: raise --max-iterations or --damping",
    "not_positive_definite": "the curvature met a direction that is not positive: raise --damping",
    "not_finite": "the model or the product holds values that are not finite: check the embeddings, raise --damping",
}


@dataclass(frozen=True)
class Solution:
    """The result of a linear solve."""

    value: Tensor
    """(n, d): the own rows of the solution."""
    status: Status
    iterations: int
    relative_residual: float
    """||b - A x|| / ||b|| by the recurrence; 0 when b is zero."""

    @property
    def usable(self) -> bool:
        """Whether the value may be used as a step."""
        return self.status in ("converged", "max_iterations")


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right_side: Tensor,
    diagonal: Tensor,
    inner: InnerProducts,
    *,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Solve A x = b for a symmetric positive (semi-)definite A, preconditioned by a diagonal.

    Args:
        product: v (n, d) -> A v (n, d), all workers together.
        right_side: b, own rows (n, d).
        diagonal: Positive preconditioner (n, d).
        inner: Inner products over all workers.
        tolerance: Relative residual at which to stop.
        max_iterations: Products at most.
    """
    x = torch.zeros_like(right_side)
    residual = right_side.clone()
    scaled = residual / diagonal
    norm2, rho = inner((residual, residual), (residual, scaled))
    start2 = norm2
    if start2 == 0.0:
        return Solution(x, "converged", 0, 0.0)
    direction = scaled.clone()  # all vectors are updated in place: fresh ones would cost as much as the arithmetic
    for iteration in range(max_iterations):
        image = product(direction)
        (curvature,) = inner((direction, image))
        failure = _failure(curvature, norm2)
        if failure is not None:
            return Solution(x, failure, iteration, math.sqrt(norm2 / start2))
        step = rho / curvature
        x.add_(direction, alpha=step)
        residual.add_(image, alpha=-step)
        torch.div(residual, diagonal, out=scaled)
        norm2, rho_next = inner((residual, residual), (residual, scaled))
        if norm2 <= tolerance**2 * start2:
            return Solution(x, "converged", iteration + 1, math.sqrt(norm2 / start2))
        direction.mul_(rho_next / rho).add_(scaled)
        rho = rho_next
    status: Status = "max_iterations" if math.isfinite(norm2) else "not_finite"
    return Solution(x, status, max_iterations, math.sqrt(norm2 / start2))


def _failure(curvature: float, norm2: float) -> Status | None:
    """Why a step along a direction of this curvature cannot be taken."""
    if not math.isfinite(curvature) or not math.isfinite(norm2):
        return "not_finite"
    return "not_positive_definite" if curvature <= 0 else None
