"""An independent minimiser of what one batch minimises, over some rows only: scipy's L-BFGS-B and autograd in float64.

    F(E) = L(E; D') - <g0, E>,  g0 = grad L(E0; D),  r(E) = g0 - grad L(E; D')          (docs/method.md, Lambda = 0)

For matrix factorisation with weight decay per row. Nothing here is shared with the package: dense embeddings, every
example in every evaluation, gradients by autograd, and no Newton step.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_CONVERGED = 1e-3
_CORRECTION_PAIRS = 30
_MAX_ITERATIONS = 20_000


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Where the minimiser ended."""

    embeddings: NDArray[np.float64]
    """(N, d); rows that could not move are as they were."""
    rho: float
    """||r(E)|| / ||r(E0)|| over all rows that keep examples."""
    gradient_share: float
    """||grad F|| on the rows that could move, over ||r(E0)||: how converged the minimisation is."""
    iterations: int


class TiltedProblem:
    """One batch: the examples before it, those that go, and the embeddings that it starts from."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.floating],
        erased: NDArray[np.bool_],
        embeddings: NDArray[np.floating],
        l2_row: float,
    ) -> None:
        """Form the tilt.

        Args:
            rows: (n, 2) rows of the examples' users and items among all rows.
            labels: (n,)
            erased: (n,) the examples that go.
            embeddings: (N, d) before the batch.
            l2_row: weight decay of every row.
        """
        self._rows, self._labels = torch.tensor(rows), torch.tensor(labels, dtype=torch.float64)
        self._start, self._l2_row = torch.tensor(embeddings, dtype=torch.float64), l2_row
        everything = torch.ones(len(rows), dtype=torch.bool)
        self._left = torch.tensor(~erased)
        self._tilt = self._gradient(self._start, everything)[1]
        self.keeps = np.zeros(len(embeddings), dtype=bool)
        """(N,): rows that keep examples."""
        self.keeps[rows[~erased]] = True
        self._first_norm = float(self._residual(self._start).norm())

    def rho(self, embeddings: NDArray[np.floating]) -> float:
        """||r(E)|| / ||r(E0)|| over all rows that keep examples."""
        return float(self._residual(torch.tensor(embeddings, dtype=torch.float64)).norm()) / self._first_norm

    def minimise(self, moving: NDArray[np.int64]) -> Minimum:
        """Minimise F over the rows ``moving`` (m,), all others held.

        Raises:
            RuntimeError: the minimisation did not converge.
        """
        selected, dim = torch.tensor(moving), self._start.shape[1]

        def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            value, gradient = self._tilted(self._at(x, selected))
            return value, gradient[selected].numpy().reshape(-1)

        result = minimize(
            value_and_gradient,
            self._start[selected].numpy().reshape(-1),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _MAX_ITERATIONS,
                "maxfun": 2 * _MAX_ITERATIONS,
                "maxcor": _CORRECTION_PAIRS,
                "ftol": 0.0,
                "gtol": 1e-3 * _CONVERGED * self._first_norm / math.sqrt(max(len(moving) * dim, 1)),
            },
        )
        embeddings = self._at(result.x, selected)
        share = float(self._tilted(embeddings)[1][selected].norm()) / self._first_norm
        if not share <= _CONVERGED:
            raise RuntimeError(
                f"the independent minimisation did not converge: its gradient is {share:.2g} of the residual before, "
                f"after {result.nit} iterations ({result.message})"
            )
        moved = embeddings.numpy()
        return Minimum(embeddings=moved, rho=self.rho(moved), gradient_share=share, iterations=int(result.nit))

    def _at(self, x: NDArray[np.float64], selected: Tensor) -> Tensor:
        """All embeddings with the moving rows' values x (m * d,) in place."""
        embeddings = self._start.clone()
        embeddings[selected] = torch.from_numpy(x).view(len(selected), -1)
        return embeddings

    def _tilted(self, embeddings: Tensor) -> tuple[float, Tensor]:
        """F and its gradient (N, d)."""
        value, gradient = self._gradient(embeddings, self._left)
        return value - float((self._tilt * (embeddings - self._start)).sum()), gradient - self._tilt

    def _residual(self, embeddings: Tensor) -> Tensor:
        """r(E) of the rows that keep examples."""
        return (self._tilt - self._gradient(embeddings, self._left)[1])[torch.from_numpy(self.keeps)]

    def _gradient(self, embeddings: Tensor, examples: Tensor) -> tuple[float, Tensor]:
        """L over some examples (n,) bool, and its gradient (N, d)."""
        at = embeddings.clone().requires_grad_()
        user, item = self._rows[examples].T
        scores = (at[user] * at[item]).sum(dim=1)
        loss = binary_cross_entropy_with_logits(scores, self._labels[examples], reduction="sum")
        objective = loss + 0.5 * self._l2_row * at.square().sum()
        (gradient,) = torch.autograd.grad(objective, at)
        return float(objective.detach()), gradient
