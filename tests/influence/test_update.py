"""Residual, product, selection, solve and update against the dense reference."""

import dataclasses
import gc
import weakref

import pytest
import torch

from ifru_dist.influence.damping import row_damping
from ifru_dist.influence.importance import endpoints, select_by_degree
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.kernels_torch import TorchKernels
from ifru_dist.influence.newton import TiltedObjective
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.reduction import Reduction
from ifru_dist.influence.update import Batch
from tests.influence import reference
from tests.influence.local import communicator_of, objective_of, place_of, problem_of, shard_of, unlearn
from tests.influence.reference import CASES, Case

KERNELS = pytest.mark.parametrize("kernels", [NumbaKernels(), TorchKernels()], ids=["numba", "torch"])
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def options(**changes: object) -> SolveOptions:
    values = {
        "damping": 0.3,
        "newton_steps": 2,
        "importance": "degree",
        "hops": 0,
        "row_budget": 10**6,
        "solver_tolerance": 1e-13,
        "max_iterations": 500,
        "product_dtype": torch.float64,
        "product": "exact",
        "storage_dtype": torch.float64,
    }
    return SolveOptions(**{**values, **changes})


def moved_point(case: Case, selected: torch.Tensor) -> torch.Tensor:
    """Embeddings away from the start on the selected rows, in global order."""
    noise = torch.randn(case.embeddings.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return case.embeddings + 0.1 * noise * selected[:, None]


@EACH_CASE
@KERNELS
def test_residual_and_product_equal_dense(case: Case, kernels: Kernels) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected, kernels)
    point = moved_point(case, selected)
    at = objective.at(place_of(objective, point[shard.rows].contiguous()))
    residual = at.residual()
    rows = shard.rows[objective.positions]
    torch.testing.assert_close(residual, reference.residual(case, point)[rows], **CLOSE)

    vector = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    spread = torch.zeros_like(point)
    spread[rows] = vector
    for kind, matrix in (("gauss-newton", reference.gauss_newton), ("hessian", reference.hessian)):
        dense = (matrix(case, point) @ spread.flatten()).reshape(point.shape)
        torch.testing.assert_close(at.curvature(kind).product(vector), dense[rows], **CLOSE)


@EACH_CASE
@KERNELS
def test_objective_and_its_gradient_equal_dense(case: Case, kernels: Kernels) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected, kernels)
    point = moved_point(case, selected)
    own = point[shard.rows].contiguous()
    anchor = row_damping(0.3, shard.degrees)
    reduction = Reduction(communicator_of(shard), kernels, shard.partition, case.partitions)
    tilted = TiltedObjective(shard, objective, anchor, reduction)
    at = objective.at(place_of(objective, own))
    assert tilted.value(at) == pytest.approx(float(reference.tilted(case, point, 0.3)), rel=1e-9)
    gradient = torch.func.grad(reference.tilted, argnums=1)(case, point, 0.3)
    rows = shard.rows[objective.positions]
    torch.testing.assert_close(tilted.descent_direction(at), -gradient[rows], **CLOSE)
    assert tilted.value(objective.at(tilted.start)) == 0


@pytest.mark.parametrize("case", [case for case in CASES if len(case.layer_weights) == 1], ids=lambda case: case.name)
def test_mf_diagonal_is_exact(case: Case) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected)
    curvature = objective.at(place_of(objective)).curvature("gauss-newton")
    dense = reference.gauss_newton(case, case.embeddings).diagonal().reshape(case.embeddings.shape)
    torch.testing.assert_close(curvature.diagonal, dense[shard.rows[objective.positions]], **CLOSE)


@EACH_CASE
@KERNELS
@pytest.mark.parametrize("hops", [0, 1])
def test_update_equals_dense_solve(case: Case, kernels: Kernels, hops: int) -> None:
    outcome = unlearn(case, options(hops=hops), kernels)
    kept_endpoints, emptied = reference.endpoint_masks(case)
    reached = (reference.importance(case, hops) > 0) & ~emptied
    expected = reference.newton(case, reached, damping=0.3, steps=2)
    assert outcome.status == "converged"
    assert sorted(outcome.rows.tolist()) == torch.nonzero(reached).flatten().tolist()
    assert sorted(outcome.emptied.tolist()) == torch.nonzero(emptied).flatten().tolist()
    assert bool(kept_endpoints[outcome.rows].any())
    torch.testing.assert_close(outcome.values, expected[outcome.rows], **CLOSE)

    solved = ~emptied
    before = reference.residual(case, case.embeddings)[solved].norm()
    after = reference.residual(case, expected)[solved].norm()
    assert outcome.influence_residual == pytest.approx(float(after / before), rel=1e-7)


@EACH_CASE
@pytest.mark.parametrize("budget", [0, 6, 9, 100])
def test_selection_is_endpoints_then_the_most_important(case: Case, budget: int) -> None:
    shard, erased = shard_of(case)
    problem = problem_of(case, shard, erased, communicator_of(shard), options())
    mask = select_by_degree(problem, hops=2, quantile=0.0, row_budget=budget)
    pinned, emptied = reference.endpoint_masks(case)
    importance = reference.importance(case, 2)
    others = [(-float(importance[r]), r) for r in range(case.rows) if importance[r] > 0 and not (pinned | emptied)[r]]
    room = max(0, budget - int(pinned.sum()))
    expected = set(torch.nonzero(pinned).flatten().tolist()) | {r for _, r in sorted(others)[:room]}
    assert set(shard.rows[mask].tolist()) == expected


@EACH_CASE
def test_erasing_nothing_changes_nothing(case: Case) -> None:
    nothing = dataclasses.replace(case, erased=torch.zeros_like(case.erased))
    outcome = unlearn(nothing, options(hops=1))
    assert len(outcome.rows) == 0
    assert len(outcome.emptied) == 0
    assert outcome.influence_residual == 0


@EACH_CASE
def test_an_erasure_without_influence_divides_by_nothing(case: Case) -> None:
    """Nothing erased while any number of rows may enter; and a user and an item that have only each other."""
    alone = torch.tensor([[case.sizes[0] - 1, case.rows - 1]])  # the case's row without examples, and another
    pairs = torch.cat([case.pairs[(case.pairs != alone).all(1)], alone])
    label = torch.ones(len(pairs), dtype=torch.float64)
    for erased in (torch.zeros(len(pairs), dtype=torch.bool), (pairs == alone).all(1)):
        changed = dataclasses.replace(case, pairs=pairs, label=label, erased=erased, layer_weights=(1.0,))
        outcome = unlearn(changed, options(importance="step", row_budget="all", newton_steps=None))
        assert outcome.status == "converged"
        assert outcome.influence_residual == 0
        assert len(outcome.emptied) == 2 * int(erased.sum())


def test_emptied_row_is_an_endpoint_of_its_own_kind() -> None:
    case = CASES[0]
    shard, erased = shard_of(case)
    kept, emptied = endpoints(shard, shard.lost(erased))
    dense_kept, dense_emptied = reference.endpoint_masks(case)
    assert torch.equal(kept, dense_kept[shard.rows])
    assert torch.equal(emptied, dense_emptied[shard.rows])
    assert bool(emptied.any())


@EACH_CASE
def test_products_on_float32_embeddings_change_the_update_by_little(case: Case) -> None:
    """Residuals stay float64, so after some Newton steps nothing is left of the matrix's rounding."""
    exact, rounded = (
        unlearn(case, options(newton_steps=12, solver_tolerance=1e-5, product_dtype=dtype, damping=2.0))
        for dtype in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(rounded.values, exact.values, rtol=1e-6, atol=1e-7)


@EACH_CASE
def test_nothing_of_a_batch_outlives_it(case: Case) -> None:
    shard, erased = shard_of(case)
    problem = problem_of(case, shard, erased, communicator_of(shard), options())
    gc.collect()
    gc.disable()  # references in a circle would keep gigabytes until somebody looks for them
    try:
        batch = Batch(problem, case.partitions)
        batch.solve(0.3)
        left = weakref.ref(batch._objective)
        del batch
        assert left() is None
    finally:
        gc.enable()
