"""Inner products that do not depend on the number of workers: per partition first, then in partition order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.kernels import Kernels


class InnerProducts:
    """Inner products of vectors (n, d) that are spread over the workers by rows."""

    def __init__(self, communicator: Communicator, kernels: Kernels, partition: Tensor, partitions: int) -> None:
        """``partition`` (n,) is the virtual partition of each own row, ascending."""
        self._communicator = communicator
        self._kernels = kernels
        self._partition = partition
        self._partitions = partitions

    def __call__(self, *pairs: tuple[Tensor, Tensor]) -> list[float]:
        """<left, right> of each pair, in one exchange."""
        return totals(self._communicator, *(self.share(left, right) for left, right in pairs))

    def share(self, left: Tensor, right: Tensor) -> Tensor:
        """What this worker adds to <left, right>: (partitions,) the sums of its own partitions, 0 for the others."""
        return self._kernels.partition_dots(left, right, self._partition, self._partitions)


def totals(communicator: Communicator, *shares: Tensor) -> list[float]:
    """The sum of each share (k,) float64 over its numbers and the workers, all in one exchange.

    A number of a share is other than zero on one worker only, or a count. So adding the workers' shares is exact in
    any order; the sum over the numbers then runs in a fixed order on every worker.
    """
    parts = torch.split(communicator.all_reduce(torch.cat(shares)), [len(share) for share in shares])
    return [sum(part.tolist()) for part in parts]


@dataclass(frozen=True)
class Reduction:
    """Makes inner products over some of a worker's rows."""

    communicator: Communicator
    kernels: Kernels
    partition: Tensor
    """(n,) virtual partition of each own row, ascending."""
    partitions: int

    def totals(self, *shares: Tensor) -> list[float]:
        """See the function of that name; shares are inner products of any rows, and counts (1,)."""
        return totals(self.communicator, *shares)

    def on(self, positions: Tensor) -> InnerProducts:
        """Inner products of vectors on the rows at some positions, ascending."""
        return InnerProducts(self.communicator, self.kernels, self.partition[positions], self.partitions)
