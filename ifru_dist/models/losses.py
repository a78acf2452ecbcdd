"""Losses of one example as functions of its score: value, first and second derivative."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Loss(Protocol):
    """A twice differentiable loss of a score (n,) and a label (n,)."""

    @property
    def name(self) -> str:
        """Name in a model's record."""

    @property
    def temperature(self) -> float:
        """1 but for tempered losses."""

    def value(self, score: Tensor, label: Tensor) -> Tensor:
        """Loss of each example, (n,)."""

    def error(self, score: Tensor, label: Tensor) -> Tensor:
        """First derivative by the score, (n,)."""

    def curvature(self, score: Tensor, label: Tensor) -> Tensor:
        """Second derivative by the score, (n,); never negative."""


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-y log q - (1 - y) log(1 - q) with q = sigmoid(score)."""

    name: str = "bce"
    temperature: float = 1.0

    def value(self, score: Tensor, label: Tensor) -> Tensor:
        """Loss of each example, (n,), without overflow for large scores."""
        return torch.nn.functional.binary_cross_entropy_with_logits(score, label, reduction="none")

    def error(self, score: Tensor, label: Tensor) -> Tensor:
        """First derivative q - y, (n,)."""
        return _sigmoid(score) - label

    def curvature(self, score: Tensor, label: Tensor) -> Tensor:
        """Second derivative q (1 - q), (n,); independent of the label."""
        q = _sigmoid(score)
        return q * (1 - q)


@dataclass(frozen=True)
class SquaredError:
    """Half of (score - y)^2."""

    name: str = "squared"
    temperature: float = 1.0

    def value(self, score: Tensor, label: Tensor) -> Tensor:
        """Loss of each example, (n,)."""
        return 0.5 * (score - label).square()

    def error(self, score: Tensor, label: Tensor) -> Tensor:
        """First derivative score - y, (n,)."""
        return score - label

    def curvature(self, score: Tensor, label: Tensor) -> Tensor:
        """Second derivative 1, (n,)."""
        return torch.ones_like(score)


@dataclass(frozen=True)
class Tempered:
    """T * loss(score / T, y): where a score is far out, its error and curvature are less vanishing than they are.

    Training stopped early has pushed an example with all the errors that it had on the way, of which the error at the
    end tells nothing once it is saturated; those of a higher temperature are nearer to their mean.
    """

    loss: Loss
    temperature: float

    @property
    def name(self) -> str:
        """Name of the loss itself."""
        return self.loss.name

    def value(self, score: Tensor, label: Tensor) -> Tensor:
        """Tempered loss of each example, (n,)."""
        return self.temperature * self.loss.value(score / self.temperature, label)

    def error(self, score: Tensor, label: Tensor) -> Tensor:
        """First derivative by the score, (n,)."""
        return self.loss.error(score / self.temperature, label)

    def curvature(self, score: Tensor, label: Tensor) -> Tensor:
        """Second derivative by the score, (n,)."""
        return self.loss.curvature(score / self.temperature, label) / self.temperature


def tempered(loss: Loss, temperature: float) -> Loss:
    """A loss at a temperature; at 1 the loss itself."""
    return loss if temperature == 1.0 else Tempered(loss, temperature)


LOSSES: dict[str, Loss] = {"bce": BinaryCrossEntropy(), "squared": SquaredError()}
"""The losses by their names."""


def _sigmoid(score: Tensor) -> Tensor:
    """1 / (1 + exp(-score)), (n,), the same bits wherever a score stands in the array.

    ``torch.sigmoid`` rounds the last elements of an array differently from the others, so results would depend on how
    examples are spread over workers.
    """
    return torch.exp(-score).add_(1).reciprocal_()
