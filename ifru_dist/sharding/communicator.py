"""The communicator of a gang: exchanges over a torch.distributed process group (gloo on CPUs, NCCL on GPUs)."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ifru_dist.influence.communicator import GatherPlan, Ownership, order_by_owner


class GangCommunicator:
    """See ``ifru_dist.influence.communicator.Communicator``."""

    def __init__(self, ownership: Ownership, device: torch.device) -> None:
        """Use the default process group, which must be initialised."""
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.ownership = ownership
        self.bytes_sent = 0
        self._device = device

    def all_reduce(self, vector: Tensor) -> Tensor:
        """Sum of a float64 vector (k,) over the workers."""
        result = vector.clone()
        dist.all_reduce(result)
        self.bytes_sent += _size_bytes(vector) * (self.world_size - 1)
        return result

    def all_gather(self, values: Tensor) -> Tensor:
        """Arrays (n_rank, ...) of all workers in the order of their ranks."""
        counts = self._all_counts(torch.tensor([len(values)], device=self._device))[:, 0].tolist()
        longest = max(counts)
        padded = values.new_zeros(longest, *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        self.bytes_sent += _size_bytes(padded) * (self.world_size - 1)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def plan(self, rows: Tensor) -> GatherPlan:
        """Tell every owner which of its rows this worker needs."""
        ordered = order_by_owner(rows, self.ownership)
        wanted = torch.bincount(self.ownership.rank[ordered], minlength=self.world_size)
        receive_counts = tuple(wanted.tolist())
        send_counts = tuple(self._all_counts(wanted)[:, self.rank].tolist())
        requested = self._exchange(ordered, receive_counts, send_counts)
        return GatherPlan(ordered, self.ownership.position[requested], send_counts, receive_counts)

    def gather_rows(self, plan: GatherPlan, values: Tensor) -> Tensor:
        """Values (h, k) of the planned rows."""
        return self._exchange(values[plan.send], plan.send_counts, plan.receive_counts)

    def _all_counts(self, counts: Tensor) -> Tensor:
        """Every worker's counts (k,), stacked by rank: (world_size, k)."""
        parts = [torch.empty_like(counts) for _ in range(self.world_size)]
        dist.all_gather(parts, counts)
        self.bytes_sent += _size_bytes(counts) * (self.world_size - 1)
        return torch.stack(parts)

    def _exchange(self, outgoing: Tensor, send: tuple[int, ...], receive: tuple[int, ...]) -> Tensor:
        """Send consecutive runs of rows to the workers, receive theirs."""
        incoming = outgoing.new_empty(sum(receive), *outgoing.shape[1:])
        dist.all_to_all_single(incoming, outgoing.contiguous(), list(receive), list(send))
        staying = send[self.rank] * (_size_bytes(outgoing) // max(1, len(outgoing)))
        self.bytes_sent += _size_bytes(outgoing) - staying
        return incoming


def join_group(address: str, rank: int, world_size: int, device: torch.device, timeout_s: float) -> None:
    """Join the default process group at ``host:port``; a peer that stays silent for the timeout is an error."""
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )


def leave_group() -> None:
    """Leave the default process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _size_bytes(values: Tensor) -> int:
    """Payload of a tensor."""
    return values.numel() * values.element_size()
