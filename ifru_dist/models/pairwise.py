"""Bayesian personalised ranking: any model, trained to score an example above one whose item was drawn."""

import torch
from torch import Tensor

from ifru_dist.models.base import Dense, Model
from ifru_dist.models.losses import LOSSES, Loss


class Pairwise(Model):
    """Another model's score of an example less that of the same example with a negative item, the last row.

    With the label 1, binary cross-entropy of this difference is the loss of Rendle et al., arXiv 1205.2618.
    """

    def __init__(self, scorer: Model) -> None:
        """Rank by the scores of another model."""
        super().__init__(scorer.spec)
        self._scorer = scorer

    @property
    def scorer(self) -> Model:
        """The other model."""
        return self._scorer

    @property
    def loss(self) -> Loss:
        """Binary cross-entropy."""
        return LOSSES["bce"]

    @property
    def layer_weights(self) -> tuple[float, ...]:
        """Those of the other model."""
        return self._scorer.layer_weights

    @property
    def arity(self) -> int:
        """The example's rows and the negative item."""
        return self._scorer.arity + 1

    @property
    def width(self) -> int:
        """That of the other model."""
        return self._scorer.width

    @property
    def sampled_negatives(self) -> int:
        """Negatives of each positive."""
        return self.spec.negatives

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Those of the other model."""
        return self._scorer.initial_dense(generator)

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """Differences (n,) for rows (n, fields + 1, d): user, item, further fields, negative item."""
        negative = torch.cat([rows[:, :1], rows[:, -1:], rows[:, 2:-1]], dim=1)
        return self._scorer.score(rows[:, :-1], dense) - self._scorer.score(negative, dense)

    def predict(self, rows: Tensor, dense: Dense) -> Tensor:
        """The other model's scores (n,) of rows (n, fields, d)."""
        return self._scorer.predict(rows, dense)
