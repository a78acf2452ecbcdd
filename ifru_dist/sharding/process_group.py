"""Workers on GPUs: messages over a torch.distributed process group (NCCL; gloo where a test has no GPU)."""

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup:
    """See ``ifru_dist.sharding.communicator.Transport``."""

    def __init__(self) -> None:
        """Use the default process group, which must be initialised."""
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def total(self, vector: Tensor) -> Tensor:
        """Sum of a vector (k,) over the workers."""
        result = vector.clone()
        dist.all_reduce(result)
        return result

    def everyone(self, values: Tensor) -> list[Tensor]:
        """The arrays of all workers, which are of one shape and type, by rank."""
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(parts, values)
        return parts

    def deliver(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """Send a tensor to every other worker and fill those that they send, by rank."""
        leaving, arriving = (self._flat(tensors) for tensors in (outgoing, incoming))
        given, received = torch.cat(leaving), torch.cat(arriving)
        dist.all_to_all_single(received, given, [len(part) for part in arriving], [len(part) for part in leaving])
        for part, values in zip(arriving, torch.split(received, [len(part) for part in arriving]), strict=True):
            part.copy_(values)

    def _flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Views of contiguous tensors without their shapes; nothing of one's own."""
        return [tensor.view(-1)[: 0 if peer == self.rank else None] for peer, tensor in enumerate(tensors)]


def join_group(address: str, rank: int, world_size: int, device: torch.device, timeout_s: float) -> ProcessGroup:
    """Join the default process group at ``host:port``; a peer that stays silent for the timeout is an error."""
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )
    return ProcessGroup()
