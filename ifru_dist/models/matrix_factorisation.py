"""Matrix factorisation, plain and with biases."""

from typing import ClassVar

import torch
from torch import Tensor

from ifru_dist.models.base import Dense, Model


class MatrixFactorisation(Model):
    """The score of a pair is the dot product of its two embedding rows; no graph is read."""

    dot_product: ClassVar[bool] = True

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """Dot products (n,) of row pairs (n, 2, d)."""
        return (rows[:, 0] * rows[:, 1]).sum(dim=-1)


class BiasedMatrixFactorisation(Model):
    """Dot product plus a bias of either row, the last column of its embedding, plus one bias of all."""

    @property
    def width(self) -> int:
        """The dimensions and the bias."""
        return self.spec.dim + 1

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The bias of all, zero."""
        return {"bias": torch.zeros(())}

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """Scores (n,) of row pairs (n, 2, d + 1)."""
        interaction = (rows[:, 0, :-1] * rows[:, 1, :-1]).sum(dim=-1)
        return interaction + rows[:, 0, -1] + rows[:, 1, -1] + dense["bias"]
