"""One step of mini-batch training: Adam's move along the gradient of a batch.

What a step costs is mostly Adam, which moves every row of the table whether the batch holds it or not: moving only the
batch's rows would be quicker, but it is another optimiser, and gives another model.
"""

import torch
from torch import Tensor

from ifru_dist.training.objective import TrainingObjective


class Trainer:
    """An objective whose parameters Adam moves in place."""

    def __init__(self, objective: TrainingObjective, learning_rate: float) -> None:
        """Start with Adam's moments at zero."""
        self._objective = objective
        self._optimiser = torch.optim.Adam(objective.parameters, lr=learning_rate, fused=True)

    def step(self, rows: Tensor, labels: Tensor) -> float:
        """One Adam step on the examples' objective; returns the objective before it.

        Args:
            rows: (n, arity), int64.
            labels: (n,).
        """
        value, gradients = self._objective.value_and_gradient(rows, labels)
        for values, gradient in zip(self._objective.parameters, gradients, strict=True):
            values.grad = gradient
        self._optimiser.step()
        self._objective.clear(rows)
        return value
