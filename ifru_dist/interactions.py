"""Labelled pairs of embedding rows: what training, evaluation and unlearning all speak of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interactions:
    """Pairs of global rows and their labels, in a fixed order.

    A global row counts the rows of all tables: users first, then items.
    """

    rows: NDArray[np.int64]
    """(n, 2): global row of the user and of the item."""
    labels: NDArray[np.float32]
    """(n,), 0 or 1."""

    def __len__(self) -> int:
        """Number of interactions."""
        return len(self.labels)

    def take(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Interactions":
        """The interactions that a mask (n,) or an index array selects."""
        return Interactions(self.rows[keep], self.labels[keep])

    def joined(self, other: "Interactions") -> "Interactions":
        """These interactions, then the other ones."""
        return Interactions(np.concatenate([self.rows, other.rows]), np.concatenate([self.labels, other.labels]))

    def positives(self) -> NDArray[np.int64]:
        """Row pairs (m, 2) of the interactions with label 1: the edges of the propagation graph."""
        return self.rows[self.labels > 0.5]
