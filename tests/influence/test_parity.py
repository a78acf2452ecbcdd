"""Any number of workers gives the same bits, in float64, on many random problems of some size."""

from dataclasses import replace

import pytest
import torch

from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.influence.update import Batch
from tests.influence.local import problem_of, shard_of
from tests.influence.reference import Case, random_case
from tests.influence.threads import ThreadCommunicator, run_workers

PARTITIONS = 16
EACH_MODEL = pytest.mark.parametrize("layer_weights", [(1.0,), (0.5, 0.5)], ids=["mf", "lightgcn"])
STEPS = SolveOptions(
    damping=0.3,
    newton_steps=3,
    row_budget=40,
    tolerance=1e-3,
    solver_tolerance=1e-6,
    max_iterations=50,
    storage_dtype=torch.float64,
)
VARIANTS = {
    "degree": replace(STEPS, importance="degree", hops=1, quantile=0.4),
    "auto": replace(STEPS, newton_steps=None, row_budget="all", damping=4.0),
    "hessian": replace(STEPS, newton_steps=None, curvature="hessian"),
    "automatic": replace(STEPS, newton_steps=None, row_budget="auto", solver_tolerance=1e-10, damping=0.02),
    "block": replace(STEPS, preconditioner="block"),
    "exact": replace(STEPS, product="exact"),
    "budget": replace(STEPS, edge_budget=250, newton_steps=None),
    "gradient": replace(STEPS, anchor="gradient", anchor_scale=2.0, temperature=1.5),
}


def solve(case: Case, workers: int, options: SolveOptions) -> tuple[torch.Tensor, list[Outcome]]:
    """Embeddings of all rows after the batch, and the workers' outcomes."""
    shards = [shard_of(case, list(range(worker, PARTITIONS, workers))) for worker in range(workers)]

    def work(rank: int, communicator: ThreadCommunicator) -> Outcome:
        shard, erased = shards[rank]
        batch = Batch(problem_of(case, shard, erased, communicator, options), PARTITIONS)
        return batch.solve(options.damping)

    outcomes = run_workers([shard.rows for shard, _ in shards], work)
    embeddings = case.embeddings.clone()
    for outcome in outcomes:
        embeddings[outcome.rows] = outcome.values
    return embeddings, outcomes


@pytest.mark.parametrize("seed", range(12))
@EACH_MODEL
def test_same_bits(seed: int, layer_weights: tuple[float, ...]) -> None:
    check_same_bits(seed, layer_weights, STEPS, (2, 3, PARTITIONS))


@pytest.mark.parametrize("seed", range(2))
@EACH_MODEL
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_same_bits_with_other_options(seed: int, layer_weights: tuple[float, ...], options: SolveOptions) -> None:
    check_same_bits(seed, layer_weights, options, (3,))


def check_same_bits(
    seed: int, layer_weights: tuple[float, ...], options: SolveOptions, worker_counts: tuple[int, ...]
) -> None:
    case = random_case(
        seed, users=40, items=30, examples=500, layer_weights=layer_weights, l2=0.01, partitions=PARTITIONS
    )
    single, (alone,) = solve(case, 1, options)
    assert not torch.equal(single, case.embeddings)
    for workers in worker_counts:
        embeddings, outcomes = solve(case, workers, options)
        assert torch.equal(embeddings, single)
        assert {o.influence_residual for o in outcomes} == {alone.influence_residual}
        assert {tuple(o.iterations) for o in outcomes} == {tuple(alone.iterations)}
        assert all(o.rounds == alone.rounds for o in outcomes)
        assert {(o.status, o.newton_steps) for o in outcomes} == {(alone.status, alone.newton_steps)}
        assert {o.objective_change for o in outcomes} == {alone.objective_change}
        assert {o.product_error for o in outcomes} == {alone.product_error}
    pruned = options.edge_budget is not None or (options.product == "pruned" and len(layer_weights) > 1)
    assert (alone.product_error is not None) == pruned
