"""Preconditioned conjugate gradients on vectors that are spread over workers, inside a trust region if one is given.

The trust region is Steihaug's (SIAM J. Numer. Anal. 20, 1983): the iterates grow in the norm of the preconditioner, so
the first one outside the region, or the first direction of negative curvature, ends the solve at the region's boundary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ifru_dist.influence.preconditioner import Preconditioner
from ifru_dist.influence.reduction import InnerProducts

SolveStatus = Literal["converged", "boundary", "max_iterations", "not_positive_definite", "not_finite"]


@dataclass(frozen=True)
class Solution:
    """The result of a linear solve."""

    value: Tensor
    """(n, d): the own rows of the solution."""
    status: SolveStatus
    """``boundary``: the solution lies on the boundary of the trust region."""
    iterations: int
    relative_residual: float
    """||b - A x|| / ||b|| by the recurrence; 0 when b is zero."""
    decrease: float = 0.0
    """b.x - x.A x / 2: by how much the quadratic model falls."""
    norm: float = 0.0
    """Length of the solution in the norm of the preconditioner."""

    @property
    def usable(self) -> bool:
        """Whether the value may be used as a step."""
        return self.status in ("converged", "boundary", "max_iterations")


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right_side: Tensor,
    preconditioner: Preconditioner,
    inner: InnerProducts,
    *,
    tolerance: float,
    max_iterations: int,
    radius: float = math.inf,
) -> Solution:
    """Solve A x = b for a symmetric A, which must be positive (semi-)definite unless there is a trust region.

    Args:
        product: v (n, d) -> A v (n, d), all workers together.
        right_side: b, own rows (n, d).
        preconditioner: Symmetric, positive definite.
        inner: Inner products over all workers.
        tolerance: Relative residual at which to stop.
        max_iterations: Products at most.
        radius: Of the trust region, in the norm of the preconditioner.
    """
    x = torch.zeros_like(right_side)
    residual = right_side.clone()
    scaled = preconditioner.solve(residual, torch.empty_like(residual))
    norm2, rho = inner((residual, residual), (residual, scaled))
    start2 = norm2
    if start2 == 0.0:
        return Solution(x, "converged", 0, 0.0)
    lengths = _Lengths(rho)
    direction = scaled.clone()  # all vectors are updated in place: fresh ones would cost as much as the arithmetic
    decrease, status, iteration = 0.0, "max_iterations", 0
    while iteration < max_iterations:
        image = product(direction)
        (curvature,) = inner((direction, image))
        failure = _failure(curvature, norm2, radius)
        if failure is not None:
            status = failure
            break
        step = rho / curvature if curvature > 0 else math.inf
        length = lengths.after(step)
        outside = length >= radius
        if math.isinf(radius) and not length < radius:  # so little curvature that nothing holds the step
            status = "not_positive_definite"
            break
        iteration += 1
        if outside:
            step = lengths.to_boundary(radius)
        x.add_(direction, alpha=step)
        residual.add_(image, alpha=-step)
        preconditioner.solve(residual, scaled)
        decrease += step * rho - 0.5 * step * step * curvature
        norm2, rho_next = inner((residual, residual), (residual, scaled))
        lengths.advance(step, rho_next, rho_next / rho)
        if outside or norm2 <= tolerance**2 * start2:
            status = "boundary" if outside else "converged"
            break
        direction.mul_(rho_next / rho).add_(scaled)
        rho = rho_next
    if not (math.isfinite(norm2) and math.isfinite(decrease)):
        status = "not_finite"
    return Solution(x, status, iteration, math.sqrt(norm2 / start2), decrease, math.sqrt(lengths.x_x))  # type: ignore[arg-type]


class _Lengths:
    """Inner products of the iterate x and the direction p in the preconditioner's norm, by recurrence."""

    def __init__(self, rho: float) -> None:
        self.x_x, self._x_p, self._p_p = 0.0, 0.0, rho

    def after(self, step: float) -> float:
        """Length of x + step * p."""
        return math.sqrt(self.x_x + step * (2 * self._x_p + step * self._p_p)) if math.isfinite(step) else math.inf

    def to_boundary(self, radius: float) -> float:
        """The positive step at which the length is the radius."""
        gap = radius**2 - self.x_x
        root = math.sqrt(self._x_p**2 + self._p_p * gap)
        return gap / (self._x_p + root)  # not (root - x_p) / p_p, which cancels

    def advance(self, step: float, rho_next: float, factor: float) -> None:
        """Take the step; the next direction is the scaled residual (squared length rho_next) + factor * p."""
        self.x_x += step * (2 * self._x_p + step * self._p_p)
        self._x_p = factor * (self._x_p + step * self._p_p)
        self._p_p = rho_next + factor * factor * self._p_p


def _failure(curvature: float, norm2: float, radius: float) -> SolveStatus | None:
    """Why a step along a direction of this curvature cannot be taken."""
    if not math.isfinite(curvature) or not math.isfinite(norm2):
        return "not_finite"
    return "not_positive_definite" if curvature <= 0 and math.isinf(radius) else None
