"""Any number of workers gives the same bits, in float64, on many random problems of some size."""

import pytest
import torch

from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.update import Outcome, unlearn_batch
from tests.influence.local import DotProduct, shard_of
from tests.influence.reference import Case, random_case
from tests.influence.threads import ThreadCommunicator, run_workers

PARTITIONS = 16
OPTIONS = SolveOptions(
    damping=0.3,
    newton_steps=3,
    row_budget=40,
    tolerance=1e-3,
    solver_tolerance=1e-6,
    max_iterations=50,
    storage_dtype=torch.float64,
)


def solve(case: Case, workers: int) -> tuple[torch.Tensor, list[Outcome]]:
    """Embeddings of all rows after the batch, and the workers' outcomes."""
    shards = [shard_of(case, list(range(worker, PARTITIONS, workers))) for worker in range(workers)]

    def work(rank: int, communicator: ThreadCommunicator) -> Outcome:
        shard, erased = shards[rank]
        return unlearn_batch(shard, erased, DotProduct(case), communicator, NumbaKernels(), OPTIONS, PARTITIONS)

    outcomes = run_workers([shard.rows for shard, _ in shards], work)
    embeddings = case.embeddings.clone()
    for outcome in outcomes:
        embeddings[outcome.rows] = outcome.values
    return embeddings, outcomes


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("layer_weights", [(1.0,), (0.5, 0.5)], ids=["mf", "lightgcn"])
def test_same_bits(seed: int, layer_weights: tuple[float, ...]) -> None:
    case = random_case(
        seed, users=40, items=30, examples=500, layer_weights=layer_weights, l2=0.01, partitions=PARTITIONS
    )
    single, (alone,) = solve(case, 1)
    assert not torch.equal(single, case.embeddings)
    for workers in (2, 3, PARTITIONS):
        embeddings, outcomes = solve(case, workers)
        assert torch.equal(embeddings, single)
        assert {o.influence_residual for o in outcomes} == {alone.influence_residual}
        assert {tuple(o.iterations) for o in outcomes} == {tuple(alone.iterations)}
        assert all(o.rounds == alone.rounds for o in outcomes)
        assert {o.objective_change for o in outcomes} == {alone.objective_change}
