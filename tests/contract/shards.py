"""A tuple case as the package sees it: the shards of any number of workers."""

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, LocalCommunicator
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.shard import DenseLayout, EdgeRun, Graph, HeldEdges, Shard
from ifru_dist.influence.update import Batch, make_objective
from ifru_dist.models.base import Model
from tests.contract.reference import TupleCase
from tests.influence.threads import ThreadCommunicator, run_workers


def shard_of(case: TupleCase, model: Model, owned: list[int], *, last: bool) -> tuple[Shard, Tensor]:
    """The shard of a worker that owns some partitions (the last one also the dense rows), and the erased examples."""
    rows, partition, near = [], [], []
    offsets = [sum(case.sizes[:table]) for table in range(len(case.sizes))]
    for p in owned:
        for offset, size in zip(offsets, case.sizes, strict=True):
            for local in range(p, size, case.partitions):
                rows.append(offset + local)
                partition.append(p)
                near.append(
                    [(t, k) for t, of in enumerate(case.tuples.tolist()) for k, r in enumerate(of) if r == rows[-1]]
                )
    edges = [edge for part in near for edge in part]
    tuples = torch.tensor([t for t, _ in edges], dtype=torch.int64)
    places = torch.tensor([k for _, k in edges], dtype=torch.int64)
    arity = case.tuples.shape[1]
    others = [[r for at, r in enumerate(case.tuples[t].tolist()) if at != k] for t, k in edges]
    layout = _dense_layout(case)
    embeddings = case.embeddings[torch.tensor(rows, dtype=torch.int64)]
    lengths = [len(part) for part in near]
    if layout is not None and last:
        rows += range(layout.first_row, layout.first_row + layout.rows)
        partition += [case.partitions] * layout.rows
        embeddings = torch.cat([embeddings, layout.pack(case.dense)])
        lengths += [0] * layout.rows
    shard = Shard(
        rows=torch.tensor(rows, dtype=torch.int64),
        partition=torch.tensor(partition, dtype=torch.int64),
        embeddings=embeddings.contiguous(),
        edges=HeldEdges(
            EdgeRun(
                indptr=_running(lengths),
                others=torch.tensor(others, dtype=torch.int64).reshape(len(edges), arity - 1),
                label=case.label[tuples],
                example=case.example[tuples],
                place=None if model.dot_product else places,
                weight=case.weight[tuples],
            )
        ),
        graph=_graph(case, rows) if len(case.layer_weights) > 1 else None,
        dense=layout,
        dense_mass=float(case.weight.sum()),
    )
    return shard, _erased(case)


def _erased(case: TupleCase) -> Tensor:
    """Which example ids go: all tuples of an example go together."""
    ids = torch.cat([case.example, case.graph_example])
    erased = torch.zeros(int(ids.max()) + 1, dtype=torch.bool)
    erased[case.example[case.erased]] = True
    return erased


def _dense_layout(case: TupleCase) -> DenseLayout | None:
    shapes = {name: tuple(part.shape) for name, part in case.dense.items()}
    return DenseLayout(shapes=shapes, first_row=case.rows, width=case.embeddings.shape[1]) if shapes else None


def _graph(case: TupleCase, rows: list[int]) -> Graph:
    ends = [
        [(pair[1 - k], example) for pair, example in _graph_edges(case) for k in (0, 1) if pair[k] == row]
        for row in rows
    ]
    flat = [edge for part in ends for edge in part]
    return Graph(
        indptr=_running([len(part) for part in ends]),
        other=torch.tensor([o for o, _ in flat], dtype=torch.int64),
        example=torch.tensor([e for _, e in flat], dtype=torch.int64),
    )


def _graph_edges(case: TupleCase) -> list[tuple[list[int], int]]:
    return list(zip(case.graph.tolist(), case.graph_example.tolist(), strict=True))


def _running(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int64)


def whole(case: TupleCase, model: Model) -> tuple[Shard, Tensor, LocalCommunicator]:
    """The only worker's shard, erased mask and communicator."""
    shard, erased = shard_of(case, model, list(range(case.partitions)), last=True)
    return shard, erased, LocalCommunicator(shard.rows)


def objective_of(case: TupleCase, model: Model, selected: Tensor, options: SolveOptions):
    """The shard and the objective of a single worker, for a mask over global rows, the dense ones behind the others."""
    shard, erased, communicator = whole(case, model)
    problem = problem_of(shard, erased, model, communicator, options)
    return shard, make_objective(problem, selected[shard.rows])


def problem_of(
    shard: Shard, erased: Tensor, model: Model, communicator: Communicator, options: SolveOptions
) -> Problem:
    """A worker's share of a case."""
    return Problem(
        shard=shard,
        erased=erased,
        lost=shard.lost(erased),
        model=model,
        communicator=communicator,
        kernels=NumbaKernels(),
        options=options,
    )


def unlearn(case: TupleCase, model: Model, options: SolveOptions, workers: int = 1) -> Tensor:
    """All parameters after a batch, as one vector; emptied rows as they were."""
    return merged(case, outcomes_of(case, model, options, workers))


def outcomes_of(case: TupleCase, model: Model, options: SolveOptions, workers: int = 1) -> list[Outcome]:
    """What each worker gives back."""
    owned = [list(range(rank, case.partitions, workers)) for rank in range(workers)]
    parts = [shard_of(case, model, owned[rank], last=rank == workers - 1) for rank in range(workers)]
    partitions = case.partitions + bool(case.dense)

    def solve(rank: int, communicator: ThreadCommunicator) -> Outcome:
        shard, erased = parts[rank]
        return Batch(problem_of(shard, erased, model, communicator, options), partitions).solve(options.damping)

    return run_workers([shard.rows for shard, _ in parts], solve)


def merged(case: TupleCase, outcomes: list[Outcome]) -> Tensor:
    """The parameters with every worker's changes."""
    embeddings, dense = case.embeddings.clone(), dict(case.dense)
    for outcome in outcomes:
        embeddings[outcome.rows] = outcome.values
        dense.update(outcome.dense)
    return torch.cat([embeddings.flatten(), *(dense[name].flatten() for name in case.dense)])
