"""NeuMF: a dot product with learned weights beside a small dense tower (He et al., arXiv 1708.05031)."""

import math

import torch
from torch import Tensor

from ifru_dist.models.base import Dense, Model


class NeuMF(Model):
    """One half of an embedding row goes into an elementwise product, the other into a tower of dense layers.

    The tower's activation is SiLU where the paper has ReLU: influence functions ask for second derivatives.
    """

    @property
    def width(self) -> int:
        """Columns for the product, then as many for the tower."""
        return 2 * self.spec.dim

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights with variance 1 / inputs, biases zero."""
        dense: dict[str, Tensor] = {}
        inputs = 2 * self.spec.dim
        for layer, outputs in enumerate(self.spec.hidden):
            dense[f"weight{layer}"] = torch.randn(inputs, outputs, generator=generator) / math.sqrt(inputs)
            dense[f"bias{layer}"] = torch.zeros(outputs)
            inputs = outputs
        inputs += self.spec.dim
        dense["output"] = torch.randn(inputs, generator=generator) / math.sqrt(inputs)
        dense["bias"] = torch.zeros(())
        return dense

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """Scores (n,) of row pairs (n, 2, 2 d)."""
        dim = self.spec.dim
        product = rows[:, 0, :dim] * rows[:, 1, :dim]
        hidden = rows[:, :, dim:].flatten(1)
        for layer in range(len(self.spec.hidden)):
            hidden = torch.nn.functional.silu(hidden @ dense[f"weight{layer}"] + dense[f"bias{layer}"])
        return torch.cat([product, hidden], dim=1) @ dense["output"] + dense["bias"]
