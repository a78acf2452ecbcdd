"""Factorisation machine over any number of fields (Rendle, ICDM 2010)."""

import torch
from torch import Tensor

from ifru_dist.models.base import Dense, Model


class FactorisationMachine(Model):
    """A bias, a weight of each row (its last column) and the dot products of all pairs of rows."""

    @property
    def width(self) -> int:
        """The dimensions and the weight."""
        return self.spec.dim + 1

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The bias, zero."""
        return {"bias": torch.zeros(())}

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """Scores (n,) of rows (n, fields, d + 1); the sum over pairs as half of (sum squared - sum of squares)."""
        factors = rows[:, :, :-1]
        pairs = 0.5 * (factors.sum(dim=1).square() - factors.square().sum(dim=1)).sum(dim=-1)
        return dense["bias"] + rows[:, :, -1].sum(dim=1) + pairs
