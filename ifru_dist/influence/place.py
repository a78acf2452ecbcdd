"""Where a worker's rows are in the course of a batch: as they were before it, but for the rows that it moves.

What a step costs goes with the rows that move, never with those that a worker holds.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """The own rows of a worker, of which some may have moved."""

    before: Tensor
    """(n, d) all of them before the batch."""
    positions: Tensor
    """(m,) those that may move, ascending."""
    moved: Tensor | None = None
    """(m, d) float64: where these are now; None: where they were."""

    @cached_property
    def start(self) -> Tensor:
        """(m, d) float64: where the rows that may move were."""
        return self.before.index_select(0, self.positions).double()

    @property
    def rows(self) -> Tensor:
        """(m, d) float64: where they are."""
        return self.start if self.moved is None else self.moved

    @property
    def change(self) -> Tensor:
        """(m, d): how far they have moved."""
        return self.rows - self.start

    def at(self, rows: Tensor) -> "Place":
        """The same rows elsewhere, (m, d)."""
        other = replace(self, moved=rows)
        other.__dict__["start"] = self.start  # the same for all places of these rows
        return other

    def back(self) -> "Place":
        """The same rows where they were."""
        return replace(self, moved=None)

    def among(self, positions: Tensor) -> "Place":
        """The same place with other rows (k,) that may move, these among them."""
        other = Place(self.before, positions)
        if self.moved is None:
            return other
        rows = other.start.clone()
        rows[torch.searchsorted(positions, self.positions)] = self.moved
        return other.at(rows)

    def everywhere(self) -> Tensor:
        """(n, d) float64: all own rows."""
        values = self.before.double()
        return values if self.moved is None else values.index_copy(0, self.positions, self.moved)
