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

    def value(self, score: Tensor, label: Tensor) -> Tensor:
        """Loss of each example, (n,), without overflow for large scores."""
        return torch.nn.functional.binary_cross_entropy_with_logits(score, label, reduction="none")

    def error(self, score: Tensor, label: Tensor) -> Tensor:
        """Q - y, (n,)."""
        return torch.sigmoid(score) - label

    def curvature(self, score: Tensor, label: Tensor) -> Tensor:
        """Q (1 - q), (n,); independent of the label."""
        q = torch.sigmoid(score)
        return q * (1 - q)
