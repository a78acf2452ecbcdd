"""Labelled tuples of embedding rows: what training, evaluation and unlearning all speak of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interactions:
    """Tuples of global rows and their labels, in a fixed order.

    A global row counts the rows of all tables: users first, then items, then those of further fields.
    """

    rows: NDArray[np.int64]
    """(n, fields): a global row of each table, the user's and the item's first."""
    labels: NDArray[np.float32]
    """(n,), 0 or 1."""
    ids: NDArray[np.int64] | None = None
    """(n,), of the training examples of a workspace; None of others."""

    def __len__(self) -> int:
        """Number of interactions."""
        return len(self.labels)

    def take(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Interactions":
        """The interactions that a mask (n,) or an index array selects."""
        return Interactions(self.rows[keep], self.labels[keep], None if self.ids is None else self.ids[keep])

    def joined(self, other: "Interactions") -> "Interactions":
        """These interactions, then the other ones; with ids where both have them."""
        ids = None if self.ids is None or other.ids is None else np.concatenate([self.ids, other.ids])
        return Interactions(np.concatenate([self.rows, other.rows]), np.concatenate([self.labels, other.labels]), ids)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Rows (n, 2) of the user and of the item, whatever further fields there are."""
        return self.rows[:, :2]

    def positives(self) -> NDArray[np.int64]:
        """User and item rows (m, 2) of the interactions with label 1: the edges of the propagation graph."""
        return self.rows[self.labels > 0.5, :2]
