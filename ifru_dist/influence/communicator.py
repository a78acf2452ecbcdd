"""What the mathematics needs from other workers, and the trivial implementation for a single one.

Every row is owned by one worker, which holds its embedding and all its edges. A sum over the edges of a row is
therefore formed by one worker in stored order; what must travel are the embeddings at the far ends of the edges. A plan
says once which rows those are, and every exchange of a batch reuses it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ownership:
    """Which worker owns each row, and where the row stands in that worker's arrays."""

    rank: Tensor
    """(N,) int64: owning worker of each global row."""
    position: Tensor
    """(N,) int64: position of the row among the rows of its owner."""


@dataclass(frozen=True)
class GatherPlan:
    """An exchange of rows: made once, used for every gather of the same rows."""

    rows: Tensor
    """(h,) global rows that arrive, by owner, then ascending."""
    send: Tensor
    """(m,) positions among the own rows of what leaves, by receiver."""
    send_counts: tuple[int, ...]
    """Rows that leave for each worker."""
    receive_counts: tuple[int, ...]
    """Rows that arrive from each worker."""


class Communicator(Protocol):
    """The exchanges of a batch. All workers make the same calls in the same order."""

    rank: int
    world_size: int
    ownership: Ownership
    bytes_sent: int
    """Payload sent to other workers so far, in bytes."""

    def all_reduce(self, vector: Tensor) -> Tensor:
        """Sum of a float64 vector (k,) over the workers."""

    def all_gather(self, values: Tensor) -> Tensor:
        """Arrays (n_rank, ...) of all workers, concatenated in the order of their ranks."""

    def plan(self, rows: Tensor) -> GatherPlan:
        """Agree on an exchange that brings each worker the distinct global rows (h,) it names."""

    def gather_rows(self, plan: GatherPlan, values: Tensor) -> Tensor:
        """Values (h, k) of the planned rows, where each worker holds values (n_owned, k) of its own."""


def order_by_owner(rows: Tensor, ownership: Ownership) -> Tensor:
    """Distinct global rows (h,) by owner, then ascending."""
    ascending = torch.sort(rows).values
    return ascending[torch.sort(ownership.rank[ascending], stable=True).indices]


class LocalCommunicator:
    """One worker that owns all rows: every exchange is a selection."""

    rank = 0
    world_size = 1

    def __init__(self, rows: Tensor) -> None:
        """Own the global rows (n,), in this order."""
        position = torch.empty_like(rows)
        position[rows] = torch.arange(len(rows), device=rows.device)
        self.ownership = Ownership(rank=torch.zeros_like(rows), position=position)
        self.bytes_sent = 0

    def all_reduce(self, vector: Tensor) -> Tensor:
        """The vector itself."""
        return vector

    def all_gather(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def plan(self, rows: Tensor) -> GatherPlan:
        """Positions of the rows."""
        ordered = order_by_owner(rows, self.ownership)
        return GatherPlan(ordered, self.ownership.position[ordered], (len(ordered),), (len(ordered),))

    def gather_rows(self, plan: GatherPlan, values: Tensor) -> Tensor:
        """The planned rows of the own values."""
        return values.index_select(0, plan.send)
