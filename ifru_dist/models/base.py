"""The wall between the models and the rooms that train, evaluate and unlearn them: one small class per model.

Shapes: N rows over all tables (users first, then items, then further fields), d columns of a row, n examples.
An example is a tuple of rows (one of each table) and a label.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ifru_dist.models.losses import LOSSES, Loss
from ifru_dist.models.spec import ModelSpec

Dense = Mapping[str, Tensor]
"""The parameters of a model that are no embedding rows, by name."""


class Model(ABC):
    """A score of the embedding rows of an example, and what is said of it beside.

    A model of one's own overrides ``score``, and what else differs from the defaults (docs/models.md).
    """

    dot_product: ClassVar[bool] = False
    """Whether the score is the dot product of two rows and nothing else: its derivatives then have closed forms."""

    def __init__(self, spec: ModelSpec) -> None:
        """Be the model that a validated spec describes."""
        self.spec = spec

    @abstractmethod
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        """What the loss is a function of, (n,).

        Args:
            rows: (n, arity, width), the rows of each example in the order of the tables; of a graph model its outputs.
            dense: the model's own parameters, in the type of the rows.

        Each score must depend on the rows of its own example only, through operations that torch.func can transform.
        """

    @property
    def name(self) -> str:
        """Name in a model's record."""
        return self.spec.name

    @property
    def loss(self) -> Loss:
        """Loss of one example as a function of its score and label."""
        return LOSSES[self.spec.loss]

    @property
    def l2(self) -> float:
        """Factor of the regulariser of one example: (l2 / 2) * squared norms of its rows."""
        return self.spec.l2

    @property
    def l2_row(self) -> float:
        """Factor of the weight decay of one row, once whatever its examples: (l2_row / 2) * its squared norm."""
        return self.spec.l2_row

    @property
    def l2_dense(self) -> float:
        """Factor of the weight decay of the model's own parameters, once: (l2_dense / 2) * their squared norm."""
        return self.spec.l2_dense

    @property
    def scorer(self) -> "Model":
        """The model of a single example: itself, unless it compares the examples of another one."""
        return self

    @property
    def layer_weights(self) -> tuple[float, ...]:
        """Weight of each power of the graph's normalised adjacency in the outputs F = sum_k layer_weights[k] A^k E.

        The graph is that of the training positives. With (1.0,), the default, F = E and the graph is never read.
        """
        return (1.0,)

    @property
    def arity(self) -> int:
        """Rows of a training example: one of each field unless negatives are drawn for it."""
        return self.spec.fields

    @property
    def width(self) -> int:
        """Columns of an embedding row."""
        return self.spec.dim

    @property
    def sampled_negatives(self) -> int:
        """Negative items drawn for each positive of the objective; 0 where examples are trained as they are."""
        return 0

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """What the model's own parameters are trained from, float32; none by default."""
        return {}

    def predict(self, rows: Tensor, dense: Dense) -> Tensor:
        """Scores (n,) to rank by, of rows (n, fields, width)."""
        return self.score(rows, dense)


def dense_parameters(model: Model, seed: int) -> dict[str, Tensor]:
    """A model's own parameters as training starts from them, by its seed alone."""
    return model.initial_dense(torch.Generator().manual_seed(seed))
