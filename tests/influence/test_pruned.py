"""The pruned product of graph models against one that is built densely, and what it may and may not change."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ifru_dist.influence.options import SolveOptions
from tests.influence import reference
from tests.influence.local import after, objective_of, place_of, unlearn
from tests.influence.reference import CASES, Case, random_case

DEEP = random_case(
    11, users=8, items=7, examples=22, layer_weights=(0.4, 0.3, 0.2, 0.1), l2=0.05, partitions=4, l2_row=0.1
)
GRAPHS = [*(case for case in CASES if len(case.layer_weights) > 1), DEEP]
EACH_GRAPH = pytest.mark.parametrize("case", GRAPHS, ids=lambda case: f"{case.name}-{len(case.layer_weights) - 1}")
EACH_KIND = pytest.mark.parametrize("kind", ["gauss-newton", "hessian"])
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def restricted_propagation(case: Case, present: Tensor, among: Tensor) -> Tensor:
    """sum_k w_k (A restricted to some rows)^k, dense, with the degrees of the whole graph, (among, among)."""
    adjacency = torch.zeros(case.rows, case.rows, dtype=torch.float64)
    for (u, i), y, here in zip(case.pairs.tolist(), case.label.tolist(), present.tolist(), strict=True):
        adjacency[u, i] += here and y > 0.5
        adjacency[i, u] += here and y > 0.5
    degree = adjacency.sum(1).clamp(min=1)
    walk = (adjacency / (degree[:, None] * degree[None, :]).sqrt())[among][:, among]
    total, power = torch.zeros_like(walk), torch.eye(len(walk), dtype=torch.float64)
    for weight in case.layer_weights:
        total, power = total + weight * power, power @ walk
    return total


def pruned_matrix(case: Case, selected: Tensor, embeddings: Tensor, kind: str) -> Tensor:
    """Second derivative by the selected rows when a change of them reaches only their own outputs, dense."""
    kept, rows = ~case.erased, torch.nonzero(selected).flatten()
    inner = restricted_propagation(case, kept, selected)
    outputs, pairs, label = reference.propagation(case, kept) @ embeddings, case.pairs[kept], case.label[kept]
    shape, size = (len(rows), embeddings.shape[1]), len(rows) * embeddings.shape[1]

    def scores(change: Tensor) -> Tensor:
        moved = outputs.index_add(0, rows, inner @ change.view(shape))
        return (moved[pairs[:, 0]] * moved[pairs[:, 1]]).sum(1)

    def loss(change: Tensor) -> Tensor:
        score = scores(change)
        return (torch.log1p(torch.exp(-score)) * label + torch.log1p(torch.exp(score)) * (1 - label)).sum()

    nothing = torch.zeros(size, dtype=torch.float64)
    counts = torch.bincount(pairs.flatten(), minlength=case.rows).double()[rows]
    ridge = torch.diag((case.l2 * counts + case.l2_row).repeat_interleave(shape[1]))
    if kind == "hessian":
        return torch.func.hessian(loss)(nothing) + ridge
    jacobian, q = torch.func.jacrev(scores)(nothing), torch.sigmoid(scores(nothing))
    return jacobian.T @ ((q * (1 - q))[:, None] * jacobian) + ridge


def matrix_of(curvature, rows: int, width: int = 3) -> Tensor:
    """All columns of a curvature's product, (rows * width, rows * width)."""
    units = torch.eye(rows * width, dtype=torch.float64)
    return torch.stack([curvature.product(unit.view(rows, width).contiguous()).flatten() for unit in units], dim=1)


def moved_from(case: Case, selected: Tensor) -> Tensor:
    """Embeddings away from the start on the selected rows."""
    noise = torch.randn(case.embeddings.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return case.embeddings + 0.1 * noise * selected[:, None]


def in_global_order(shard, objective, matrix: Tensor, width: int = 3) -> Tensor:
    """A matrix on the selected rows, in the order of the global rows."""
    order = torch.argsort(shard.rows[objective.positions])
    numbers = (order[:, None] * width + torch.arange(width)).flatten()
    return matrix[numbers][:, numbers]


@EACH_GRAPH
@EACH_KIND
def test_the_pruned_product_is_the_dense_one_among_the_selected_rows(case: Case, kind: str) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected, product="pruned")
    for embeddings in (case.embeddings, moved_from(case, selected)):
        curvature = objective.at(place_of(objective, embeddings[shard.rows].contiguous())).curvature(kind)
        matrix = in_global_order(shard, objective, matrix_of(curvature, len(objective.positions)))
        torch.testing.assert_close(matrix, pruned_matrix(case, selected, embeddings, kind), **CLOSE)


@EACH_GRAPH
def test_the_pruned_matrix_is_symmetric_and_positive_semi_definite(case: Case) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(replace(case, l2=0.0, l2_row=0.0), selected, product="pruned")
    curvature = objective.at(place_of(objective, moved_from(case, selected)[shard.rows].contiguous())).curvature(
        "gauss-newton"
    )
    matrix = matrix_of(curvature, len(objective.positions))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-12, atol=1e-13)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-12
    assert bool((curvature.diagonal >= 0).all())


@EACH_GRAPH
@EACH_KIND
def test_with_all_rows_selected_nothing_is_left_out(case: Case, kind: str) -> None:
    everything = torch.ones(case.rows, dtype=torch.bool)
    embeddings = moved_from(case, everything)
    pruned, exact = (
        objective.at(place_of(objective, embeddings[shard.rows].contiguous())).curvature(kind).product
        for shard, objective in (objective_of(case, everything, product=product) for product in ("pruned", "exact"))
    )
    vector = torch.randn(case.embeddings.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(pruned(vector), exact(vector), rtol=1e-11, atol=1e-12)


@EACH_GRAPH
@EACH_KIND
def test_an_exact_curvature_can_be_had_beside_the_pruned_one(case: Case, kind: str) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected, product="pruned")
    embeddings = moved_from(case, selected)
    curvature = objective.at(place_of(objective, embeddings[shard.rows].contiguous())).curvature(kind, exact=True)
    matrix = in_global_order(shard, objective, matrix_of(curvature, len(objective.positions)))
    numbers = selected.repeat_interleave(3)
    whole = (reference.hessian if kind == "hessian" else reference.gauss_newton)(case, embeddings)
    torch.testing.assert_close(matrix, whole[numbers][:, numbers], **CLOSE)


@EACH_GRAPH
def test_a_pruned_product_leaves_residuals_and_loss_changes_as_they_are(case: Case) -> None:
    selected, _ = reference.endpoint_masks(case)
    embeddings = moved_from(case, selected)
    (one, pruned), (_, exact) = (objective_of(case, selected, product=product) for product in ("pruned", "exact"))
    at = embeddings[one.rows].contiguous()
    assert torch.equal(pruned.at(place_of(pruned, at)).residual(), exact.at(place_of(exact, at)).residual())
    assert torch.equal(
        pruned.at(place_of(pruned, at)).loss_change().values, exact.at(place_of(exact, at)).loss_change().values
    )
    assert torch.equal(pruned.start_gradient(), exact.start_gradient())
    assert pruned.edges_per_residual == exact.edges_per_residual
    assert pruned.edges_per_product < exact.edges_per_product


def test_edges_per_product_counts_examples_at_the_rows_and_kept_graph_edges_among_them() -> None:
    selected, _ = reference.endpoint_masks(DEEP)
    _, objective = objective_of(DEEP, selected, product="pruned")
    inside = selected[DEEP.pairs]
    graph = 2 * int((inside.all(1) & (DEEP.label > 0.5) & ~DEEP.erased).sum())
    layers = len(DEEP.layer_weights) - 1
    assert objective.edges_per_product == int(inside.sum()) + 2 * layers * graph


# ------------------------------------------------------------------------------------------------------ whole solves


def options(**changes: object) -> SolveOptions:
    values = {
        "damping": 8.0,
        "importance": "degree",
        "hops": 0,
        "row_budget": 10**6,
        "solver_tolerance": 1e-10,
        "max_iterations": 500,
        "product_dtype": torch.float64,
        "storage_dtype": torch.float64,
    }
    return SolveOptions(**{**values, **changes})


@EACH_GRAPH
def test_the_product_error_is_the_dense_one(case: Case) -> None:
    outcome = unlearn(case, options(newton_steps=1, damping=0.5))
    moved, embeddings = reference.endpoint_masks(case)[0], after(case, outcome)
    numbers, update = moved.repeat_interleave(3), (embeddings - case.embeddings)[moved].flatten()
    exact = reference.gauss_newton(case, embeddings)[numbers][:, numbers] @ update
    left_out = exact - pruned_matrix(case, moved, embeddings, "gauss-newton") @ update
    assert outcome.product_error == pytest.approx(float(left_out.norm() / exact.norm()), rel=1e-7)
    assert outcome.product_error > 1e-3


@EACH_GRAPH
def test_the_product_error_vanishes_where_all_rows_move_and_is_none_of_exact_products(case: Case) -> None:
    outcome = unlearn(case, options(hops=3, newton_steps=1))
    moved, emptied = reference.endpoint_masks(case)
    degree = torch.bincount(case.pairs.flatten(), minlength=case.rows)
    assert len(outcome.rows) == int(((degree > 0) & ~emptied).sum()) > int(moved.sum())
    assert outcome.product_error < 1e-13
    assert unlearn(case, options(product="exact", newton_steps=1)).product_error is None


@EACH_GRAPH
def test_steps_with_pruned_products_go_to_the_minimum_that_exact_ones_go_to(case: Case) -> None:
    pruned, exact = (
        unlearn(case, options(product=product, tolerance=1e-10, max_newton_steps=200))
        for product in ("pruned", "exact")
    )
    assert pruned.status == exact.status == "converged"
    torch.testing.assert_close(after(case, pruned), after(case, exact), rtol=1e-7, atol=1e-9)
    assert pruned.influence_residual == pytest.approx(exact.influence_residual, rel=1e-7)
