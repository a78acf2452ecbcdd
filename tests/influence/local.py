"""A case as the package sees it: the shard of one worker, in the order of the virtual partitions."""

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, LocalCommunicator
from ifru_dist.influence.direct import DirectObjective
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.influence.place import Place
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.propagated import PropagatedObjective
from ifru_dist.influence.shard import EdgeRun, Graph, HeldEdges, Shard
from ifru_dist.influence.update import Batch, make_objective
from ifru_dist.models.base import Dense, Model
from ifru_dist.models.spec import ModelSpec
from tests.influence.reference import Case


class DotProduct(Model):
    """A model by its layer weights."""

    dot_product = True

    def __init__(self, case: Case) -> None:
        super().__init__(ModelSpec(l2=case.l2, l2_row=case.l2_row))
        self._layer_weights = case.layer_weights

    @property
    def layer_weights(self) -> tuple[float, ...]:
        return self._layer_weights

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return rows.prod(1).sum(1)


def shard_of(case: Case, partitions: list[int] | None = None) -> tuple[Shard, Tensor]:
    """The shard of a worker that owns some partitions (default all), and which examples are erased."""
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
    other, pointers = torch.tensor([o for o, _ in edges], dtype=torch.int64), torch.tensor(indptr, dtype=torch.int64)
    positive = case.label[example] > 0.5
    running = torch.cat([torch.zeros(1, dtype=torch.int64), positive.long().cumsum(0)])
    shard = Shard(
        rows=torch.tensor(rows, dtype=torch.int64),
        partition=torch.tensor(part, dtype=torch.int64),
        embeddings=case.embeddings[torch.tensor(rows, dtype=torch.int64)].contiguous(),
        edges=HeldEdges(EdgeRun(indptr=pointers, others=other[:, None], label=case.label[example], example=example)),
        graph=Graph(indptr=running[pointers], other=other[positive], example=example[positive]),
    )
    return shard, case.erased


def communicator_of(shard: Shard) -> LocalCommunicator:
    """The exchanges of a single worker."""
    return LocalCommunicator(shard.rows)


def objective_of(case: Case, selected: Tensor, kernels: Kernels | None = None, **options: object):
    """The shard and the objective of a batch whose selected rows are a mask over global rows; exact products."""
    shard, erased = shard_of(case)
    exact = SolveOptions(**{"damping": 0.3, "product_dtype": torch.float64, "product": "exact", **options})
    problem = problem_of(case, shard, erased, communicator_of(shard), exact, kernels)
    return shard, make_objective(problem, selected[shard.rows])


def problem_of(
    case: Case,
    shard: Shard,
    erased: Tensor,
    communicator: Communicator,
    options: SolveOptions,
    kernels: Kernels | None = None,
) -> Problem:
    """A worker's share of a case."""
    return Problem(
        shard=shard,
        erased=erased,
        lost=shard.lost(erased),
        model=DotProduct(case),
        communicator=communicator,
        kernels=kernels or NumbaKernels(),
        options=options,
    )


def unlearn(case: Case, options: SolveOptions, kernels: Kernels | None = None) -> Outcome:
    """A case solved by a single worker."""
    shard, erased = shard_of(case)
    problem = problem_of(case, shard, erased, communicator_of(shard), options, kernels)
    batch = Batch(problem, case.partitions)
    return batch.solve(options.damping)


def after(case: Case, outcome: Outcome) -> Tensor:
    """All embeddings after a batch, emptied rows as they were."""
    embeddings = case.embeddings.clone()
    embeddings[outcome.rows] = outcome.values
    return embeddings


def place_of(objective: DirectObjective | PropagatedObjective, embeddings: Tensor | None = None) -> Place:
    """Where the own rows have these embeddings (n, d), which differ from the shard's at selected rows alone."""
    start = Place(objective.problem.shard.embeddings, objective.positions)
    if embeddings is None:
        return start
    place = start.at(embeddings[objective.positions])
    assert torch.equal(place.everywhere(), embeddings)
    return place
