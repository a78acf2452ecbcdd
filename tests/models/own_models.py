"""A model of one's own, and what is none, as package.module:Class names them."""

import torch

from ifru_dist.models.base import Dense, Model


class Scaled(Model):
    """A dot product with a learned factor."""

    def initial_dense(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"factor": torch.ones(())}

    def score(self, rows: torch.Tensor, dense: Dense) -> torch.Tensor:
        return dense["factor"] * (rows[:, 0] * rows[:, 1]).sum(dim=-1)


class NoModel:
    """No subclass of Model."""


FUNCTION = len
