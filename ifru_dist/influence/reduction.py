"""Inner products that do not depend on the number of workers: per partition first, then in partition order."""

from dataclasses import dataclass

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
        """<left, right> of each pair, in one exchange.

        Each worker fills the sums of its own partitions and leaves the others zero, so adding the workers' vectors is
        exact in any order; the sum over partitions then runs in a fixed order on every worker.
        """
        sums = [self._kernels.partition_dots(x, y, self._partition, self._partitions) for x, y in pairs]
        stacked = sums[0].new_zeros(len(sums) * self._partitions)
        for index, values in enumerate(sums):
            stacked[index * self._partitions : (index + 1) * self._partitions] = values
        reduced = self._communicator.all_reduce(stacked).reshape(len(sums), self._partitions)
        return [sum(values) for values in reduced.tolist()]


@dataclass(frozen=True)
class Reduction:
    """Makes inner products over some of a worker's rows."""

    communicator: Communicator
    kernels: Kernels
    partition: Tensor
    """(n,) virtual partition of each own row, ascending."""
    partitions: int

    def on(self, positions: Tensor) -> InnerProducts:
        """Inner products of vectors on the rows at some positions, ascending."""
        return InnerProducts(self.communicator, self.kernels, self.partition[positions], self.partitions)
