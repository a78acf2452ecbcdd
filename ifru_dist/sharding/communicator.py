"""The communicator of a gang: plans and gathers of rows, over whatever carries messages between its workers."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ifru_dist.influence.communicator import GatherPlan, Ownership, order_by_owner


class Transport(Protocol):
    """Messages among all workers of a gang, which all make the same calls in the same order."""

    rank: int
    world_size: int

    def total(self, vector: Tensor) -> Tensor:
        """Sum of a vector (k,) over the workers; the argument stays as it is."""

    def everyone(self, values: Tensor) -> list[Tensor]:
        """The arrays of all workers, which are of one shape and type, by rank."""

    def deliver(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """Send a tensor to every other worker and fill those that they send, by rank; all are contiguous.

        Both sides know the shape of what passes between them. What stands at one's own rank is left as it is.
        """


class GangCommunicator:
    """See ``ifru_dist.influence.communicator.Communicator``."""

    def __init__(self, ownership: Ownership, transport: Transport) -> None:
        """Exchange over a transport that has been joined."""
        self.rank, self.world_size = transport.rank, transport.world_size
        self.ownership = ownership
        self.bytes_sent = 0
        self._transport = transport

    def all_reduce(self, vector: Tensor) -> Tensor:
        """Sum of a float64 vector (k,) over the workers."""
        self.bytes_sent += _size_bytes(vector) * (self.world_size - 1)
        return self._transport.total(vector)

    def all_gather(self, values: Tensor) -> Tensor:
        """Arrays (n_rank, ...) of all workers in the order of their ranks."""
        counts = self._all_counts(torch.tensor([len(values)], device=values.device))[:, 0].tolist()
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        self.bytes_sent += _size_bytes(padded) * (self.world_size - 1)
        parts = self._transport.everyone(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def plan(self, rows: Tensor) -> GatherPlan:
        """Tell every owner which of its rows this worker needs."""
        ordered = order_by_owner(rows, self.ownership)
        wanted = torch.bincount(self.ownership.rank[ordered], minlength=self.world_size)
        receive_counts = tuple(wanted.tolist())
        send_counts = tuple(self._all_counts(wanted)[:, self.rank].tolist())
        requested = ordered.new_empty(sum(send_counts))
        leaving, arriving = torch.split(ordered, list(receive_counts)), torch.split(requested, list(send_counts))
        arriving[self.rank].copy_(leaving[self.rank])
        self._deliver(leaving, arriving)
        return GatherPlan(ordered, self.ownership.position[requested], send_counts, receive_counts)

    def gather_rows(self, plan: GatherPlan, values: Tensor) -> Tensor:
        """Values (h, k) of the planned rows."""
        gathered = values.new_empty(len(plan.rows), *values.shape[1:])
        arriving = torch.split(gathered, list(plan.receive_counts))
        positions = torch.split(plan.send, list(plan.send_counts))
        torch.index_select(values, 0, positions[self.rank], out=arriving[self.rank])
        foreign = (values[part] if peer != self.rank else values[:0] for peer, part in enumerate(positions))
        self._deliver(list(foreign), arriving)
        return gathered

    def _all_counts(self, counts: Tensor) -> Tensor:
        """Every worker's counts (k,), stacked by rank: (world_size, k)."""
        self.bytes_sent += _size_bytes(counts) * (self.world_size - 1)
        return torch.stack(self._transport.everyone(counts))

    def _deliver(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """Send a tensor to every other worker, by rank, and receive theirs."""
        self.bytes_sent += sum(_size_bytes(part) for peer, part in enumerate(outgoing) if peer != self.rank)
        self._transport.deliver(outgoing, incoming)


def _size_bytes(values: Tensor) -> int:
    """Payload of a tensor."""
    return values.numel() * values.element_size()
