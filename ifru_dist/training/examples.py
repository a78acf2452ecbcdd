"""What a model is trained on: the interactions as they are, or their positives with negatives that are drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.interactions import Interactions
from ifru_dist.models.base import Model
from ifru_dist.models.negatives import Negatives

FIRST_EPOCH_DRAW = 1 << 20
"""Draws of epochs are numbered from here on; those before are the objective's that unlearning minimises."""


class TrainingExamples:
    """The examples of every epoch, and those of the one objective that stays as it is."""

    def __init__(
        self,
        model: Model,
        train: Interactions,
        sizes: Sequence[int],
        seed: int,
        forgotten: NDArray[np.int64] | None = None,
    ) -> None:
        """Choose the examples; with a model that draws negatives only positives are any.

        Args:
            model: says how many negatives it wants.
            train: what there is to train on; without ids its order numbers the examples.
            sizes: rows of each table, the users' and the items' first.
            seed: of the draws.
            forgotten: global rows that are drawn as nobody's negatives.

        Raises:
            InputError: there is no example.
        """
        ids = np.arange(len(train)) if train.ids is None else train.ids
        train = Interactions(train.rows, train.labels, ids)
        self._negatives: Negatives | None = None
        self._draws = range(model.sampled_negatives)
        if self._draws:
            items = range(sizes[0], sizes[0] + sizes[1])
            self._negatives = Negatives(train.positives(), items, seed, forgotten)
            train = train.take(train.labels > 0.5)
        self._examples = train
        if len(train) == 0:
            if self._draws and len(ids):
                raise InputError(
                    "no training interaction has the label 1, and --loss bpr learns from those only: preprocess with a "
                    "lower --positive-threshold, or take another --loss"
                )
            raise InputError("the training set is empty: preprocess logs with more interactions or a smaller --k-core")

    def __len__(self) -> int:
        """Number of examples; negatives are none of their own."""
        return len(self._examples)

    def of_epoch(self, epoch: int) -> Interactions:
        """The examples of an epoch, negatives drawn anew."""
        return self._drawn(range(FIRST_EPOCH_DRAW + epoch, FIRST_EPOCH_DRAW + epoch + 1))

    def of_objective(self) -> Interactions:
        """The examples of the objective whose mean over them is what unlearning minimises, over their number."""
        return self._drawn(self._draws)

    def _drawn(self, draws: range) -> Interactions:
        """The examples with the negatives of some draws."""
        if self._negatives is None:
            return self._examples
        assert self._examples.ids is not None
        tuples = self._negatives.tuples(self._examples.rows, self._examples.ids, draws)
        return Interactions(tuples.rows, np.ones(len(tuples.rows), np.float32), tuples.examples)
