"""What stays unsolved over a stream of batches, against what may stay before the model has to be trained anew.

A batch of n interactions leaves the share rho (its influence residual) of their influence: as much as rho * n
interactions have. The sum over the batches is, by the triangle inequality, a bound on what is left of all of them
together, in units that do not depend on how the stream was cut into batches.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ResidualBudget:
    """Where a model stands before and after a batch."""

    trained: int
    """Interactions that the model was trained on."""
    spent_before: float
    """Erased interactions whose influence was still there."""
    unsolved: float
    """What the batch adds to them."""
    budget: float
    """Share of the trained interactions that may stay unsolved."""

    @property
    def spent_after(self) -> float:
        """Erased interactions whose influence is still there after the batch."""
        return self.spent_before + self.unsolved

    @property
    def share_after(self) -> float:
        """Their share of the trained interactions."""
        return self.spent_after / max(self.trained, 1)

    @property
    def retraining_due(self) -> bool:
        """Whether more stays unsolved than may."""
        return self.share_after > self.budget

    def as_report(self) -> dict[str, Any]:
        """The report's entry."""
        names = ("spent_before", "spent_after", "budget", "share_after", "retraining_due")
        return {name: getattr(self, name) for name in names}

    def in_words(self) -> str:
        """The state, and what to do when it is past the budget."""
        text = (
            f"unsolved influence since training: that of {self.spent_after:.1f} interactions, {self.share_after:.2%} "
            f"of {self.trained} (--residual-budget: {self.budget:.2%})"
        )
        if not self.retraining_due:
            return text
        return (
            f"{text}\nretraining is due: what batches left unsolved is past the budget: run jobs/train.py, which "
            "trains on what is left and starts the sum anew"
        )
