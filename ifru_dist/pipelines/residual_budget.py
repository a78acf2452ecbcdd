"""A score of what a stream of batches leaves unsolved, and how high it may get before the model is to be trained anew.

A batch of n interactions leaves the share rho (its influence residual) of their influence. The score rho * n, the
number of erased interactions weighted by the share of influence left, adds up over the batches. It is a score and no
bound: the norms that rho compares are of summed gradients, which do not grow like n, so it says nothing of the norm of
what all batches together have left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifru_dist.influence.outcome import Outcome
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class ResidualBudget:
    """Where a model stands before and after a batch."""

    trained: int
    """Interactions that the model was trained on."""
    spent_before: float
    """Score of the batches before: their erased interactions, weighted by the share of influence left."""
    unsolved: float
    """What the batch adds to it."""
    budget: float
    """What the score may be, as a share of the trained interactions."""

    @property
    def spent_after(self) -> float:
        """The score after the batch."""
        return self.spent_before + self.unsolved

    @property
    def share_after(self) -> float:
        """The score as a share of the trained interactions."""
        return self.spent_after / max(self.trained, 1)

    @property
    def retraining_due(self) -> bool:
        """Whether the score is past the budget."""
        return self.share_after > self.budget

    def as_report(self) -> dict[str, Any]:
        """The report's entry."""
        names = ("spent_before", "spent_after", "budget", "share_after", "retraining_due")
        return {name: getattr(self, name) for name in names}

    def in_words(self) -> str:
        """The state, and what to do when it is past the budget."""
        text = (
            f"residual score since training (erased interactions times the share of influence left): "
            f"{self.spent_after:.1f}, {self.share_after:.2%} of {self.trained} interactions (--residual-budget: "
            f"{self.budget:.2%})"
        )
        if not self.retraining_due:
            return text
        return (
            f"{text}\nretraining is due: the score of what batches left is past the budget: run jobs/train.py, which "
            "trains on what is left and starts the sum anew"
        )


def still_held(
    version: Version,
    rows: NDArray[np.int64],
    outcomes: Sequence[Outcome],
    forgotten: NDArray[np.int64],
) -> int:
    """Erased interactions of which something can be left: a row that still stands, or the model's own parameters.

    Args:
        version: Before the batch.
        rows: (examples, fields) global rows of the erased examples.
        outcomes: Of the workers.
        forgotten: Global rows that are reset besides those that lost all their examples.
    """
    if version.model.dense is not None:
        return len(rows)
    reset = np.concatenate([*(outcome.emptied.numpy() for outcome in outcomes), forgotten])
    return int((~np.isin(rows, reset)).any(axis=1).sum())
