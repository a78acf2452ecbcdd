"""A case as the package sees it: the shard of one worker, in the order of the virtual partitions."""

import torch
from torch import Tensor

from ifru_dist.influence.communicator import LocalCommunicator
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.influence.shard import Shard
from ifru_dist.influence.update import Batch
from ifru_dist.models.losses import BinaryCrossEntropy
from tests.influence.reference import Case


class DotProduct:
    """A model by its layer weights."""

    name = "test"

    def __init__(self, case: Case) -> None:
        self.loss = BinaryCrossEntropy()
        self.l2, self.l2_row = case.l2, case.l2_row
        self.layer_weights = case.layer_weights

    def score(self, rows: Tensor) -> Tensor:
        return rows.prod(1).sum(1)


def shard_of(case: Case, partitions: list[int] | None = None) -> tuple[Shard, Tensor]:
    """The shard of a worker that owns some partitions (default all), and its edges' erased mask."""
    owned = partitions if partitions is not None else list(range(case.partitions))
    rows, part, edges, indptr = [], [], [], [0]
    for p in owned:
        for table, size in enumerate(case.sizes):
            for local in range(p, size, case.partitions):
                row = local + (case.sizes[0] if table else 0)
                mine = torch.nonzero(case.pairs[:, table] == row).flatten().tolist()
                rows.append(row)
                part.append(p)
                edges += [(int(case.pairs[e, 1 - table]), e) for e in mine]
                indptr.append(len(edges))
    example = torch.tensor([e for _, e in edges], dtype=torch.int64)
    shard = Shard(
        rows=torch.tensor(rows, dtype=torch.int64),
        partition=torch.tensor(part, dtype=torch.int64),
        embeddings=case.embeddings[torch.tensor(rows, dtype=torch.int64)].contiguous(),
        indptr=torch.tensor(indptr, dtype=torch.int64),
        other=torch.tensor([o for o, _ in edges], dtype=torch.int64),
        label=case.label[example],
        example=example,
    )
    return shard, case.erased[example]


def communicator_of(shard: Shard) -> LocalCommunicator:
    """The exchanges of a single worker."""
    return LocalCommunicator(shard.rows)


def unlearn(case: Case, options: SolveOptions, kernels: Kernels | None = None) -> Outcome:
    """A case solved by a single worker."""
    shard, erased = shard_of(case)
    communicator, kernels = communicator_of(shard), kernels or NumbaKernels()
    batch = Batch(shard, erased, DotProduct(case), communicator, kernels, options, case.partitions)
    return batch.solve(options.damping)


def after(case: Case, outcome: Outcome) -> Tensor:
    """All embeddings after a batch, emptied rows as they were."""
    embeddings = case.embeddings.clone()
    embeddings[outcome.rows] = outcome.values
    return embeddings
