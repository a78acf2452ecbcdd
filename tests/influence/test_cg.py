"""Conjugate gradients against a direct solve, and every way in which they end."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ifru_dist.influence.cg import Solution, conjugate_gradients
from ifru_dist.influence.communicator import LocalCommunicator
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.options import REMEDIES
from ifru_dist.influence.preconditioner import Diagonal
from ifru_dist.influence.reduction import InnerProducts

SHAPE = (9, 4)
SIZE = SHAPE[0] * SHAPE[1]


def inner() -> InnerProducts:
    partition = torch.tensor([0, 0, 1, 1, 1, 3, 3, 4, 4])
    return InnerProducts(LocalCommunicator(torch.arange(SHAPE[0])), NumbaKernels(), partition, 5)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definite(seed: int, scale: float = 1.0) -> Tensor:
    """A symmetric positive definite matrix, (SIZE, SIZE), whose diagonal spans several orders with the scale."""
    root = normal(SIZE, SIZE, seed=seed)
    stretch = torch.logspace(0, scale, SIZE, dtype=torch.float64)
    return stretch[:, None] * (root @ root.T / SIZE + torch.eye(SIZE, dtype=torch.float64)) * stretch[None, :]


def solve(matrix: Tensor, right_side: Tensor, *, tolerance: float = 1e-13, max_iterations: int = 500) -> Solution:
    return conjugate_gradients(
        product_with(matrix),
        right_side,
        Diagonal(matrix.diagonal().clone().reshape(SHAPE).abs().clamp(min=1e-3)),
        inner(),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def product_with(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vector: (matrix @ vector.flatten()).reshape(vector.shape)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_the_solution_of_a_direct_solve(seed: int, scale: float) -> None:
    matrix, right_side = definite(seed, scale), normal(*SHAPE, seed=seed + 50)
    given = right_side.clone()
    solution = solve(matrix, right_side)
    expected = torch.linalg.solve(matrix, right_side.flatten()).reshape(SHAPE)
    assert solution.status == "converged"
    assert solution.usable
    torch.testing.assert_close(solution.value, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(right_side, given)
    assert 0 < solution.iterations <= SIZE + 10  # exact arithmetic needs SIZE; steepest descent needs more


def test_the_relative_residual_is_the_true_one() -> None:
    matrix, right_side = definite(4), normal(*SHAPE, seed=9)
    solution = solve(matrix, right_side, tolerance=1e-3)
    residual = right_side - product_with(matrix)(solution.value)
    assert solution.relative_residual == pytest.approx(float(residual.norm() / right_side.norm()), rel=1e-8)
    assert solution.relative_residual <= 1e-3
    loose = solve(matrix, right_side, tolerance=1e-1)
    assert loose.iterations < solution.iterations
    assert 1e-3 < loose.relative_residual <= 1e-1


def test_a_diagonal_is_solved_in_one_iteration_by_its_preconditioner() -> None:
    matrix = torch.diag(torch.logspace(-2, 4, SIZE, dtype=torch.float64))
    solution = solve(matrix, normal(*SHAPE, seed=1))
    assert (solution.status, solution.iterations) == ("converged", 1)


def test_zero_needs_no_product() -> None:
    def never(vector: Tensor) -> Tensor:
        raise AssertionError("a product was computed")

    zero = torch.zeros(SHAPE, dtype=torch.float64)
    solution = conjugate_gradients(never, zero, Diagonal(zero + 1), inner(), tolerance=1e-3, max_iterations=5)
    assert (solution.status, solution.iterations, solution.relative_residual) == ("converged", 0, 0.0)
    assert not solution.value.any()


def test_no_rows_at_all() -> None:
    empty = torch.zeros(0, 4, dtype=torch.float64)
    products = InnerProducts(LocalCommunicator(torch.arange(0)), NumbaKernels(), torch.arange(0), 5)
    solution = conjugate_gradients(lambda v: v, empty, Diagonal(empty), products, tolerance=1e-3, max_iterations=5)
    assert (solution.status, solution.value.shape) == ("converged", (0, 4))


def test_a_singular_matrix_with_a_right_side_in_its_range() -> None:
    matrix = definite(5)
    matrix[:4], matrix[:, :4] = 0, 0
    right_side = product_with(matrix)(normal(*SHAPE, seed=2))
    solution = solve(matrix, right_side, tolerance=1e-11)
    assert solution.status == "converged"
    torch.testing.assert_close(product_with(matrix)(solution.value), right_side, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("spoil", [lambda matrix: -matrix, lambda matrix: matrix - 2.5 * torch.eye(SIZE)])
def test_an_indefinite_matrix_is_refused(spoil: Callable[[Tensor], Tensor]) -> None:
    solution = solve(spoil(definite(6)), normal(*SHAPE, seed=3))
    assert solution.status == "not_positive_definite"
    assert not solution.usable
    assert torch.isfinite(solution.value).all()
    assert "raise --damping" in REMEDIES[solution.status]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["matrix", "right side"])
def test_values_that_are_not_finite_are_refused(value: float, place: str) -> None:
    matrix, right_side = definite(7), normal(*SHAPE, seed=4)
    if place == "matrix":
        matrix[3, 5] = value
    else:
        right_side[2, 1] = value
    solution = solve(matrix, right_side)
    assert solution.status == "not_finite"
    assert not solution.usable


def test_values_that_overflow_on_the_way_are_refused() -> None:
    solution = solve(definite(7) * 1e200, normal(*SHAPE, seed=4) * 1e180)
    assert solution.status == "not_finite"


@pytest.mark.parametrize("limit", [1, 3])
def test_iterations_end_at_the_limit_with_what_they_have(limit: int) -> None:
    matrix, right_side = definite(8, 2.0), normal(*SHAPE, seed=5)
    products = []
    product = product_with(matrix)

    def counted(vector: Tensor) -> Tensor:
        products.append(vector)
        return product(vector)

    diagonal = Diagonal(matrix.diagonal().clone().reshape(SHAPE))
    solution = conjugate_gradients(counted, right_side, diagonal, inner(), tolerance=1e-12, max_iterations=limit)
    assert (solution.status, solution.iterations, len(products)) == ("max_iterations", limit, limit)
    assert solution.usable
    assert "raise --max-iterations" in REMEDIES[solution.status]
    expected = torch.linalg.solve(matrix, right_side.flatten())

    def energy(vector: Tensor) -> float:
        return float((vector - expected) @ (matrix @ (vector - expected)))

    assert energy(solution.value.flatten()) < energy(torch.zeros(SIZE, dtype=torch.float64))


def metric(diagonal: Tensor, vector: Tensor) -> float:
    """Length in the norm of a diagonal preconditioner."""
    return float((diagonal * vector.square()).sum().sqrt())


def spread(matrix: Tensor) -> Tensor:
    return matrix.diagonal().clone().reshape(SHAPE).abs().clamp(min=1e-3)


@pytest.mark.parametrize("spoil", [0.0, 2.5, 50.0])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_trust_region_ends_on_its_boundary_or_inside_at_the_solution(spoil: float, share: float) -> None:
    matrix = definite(6) - spoil * torch.eye(SIZE, dtype=torch.float64)
    right_side, diagonal = normal(*SHAPE, seed=3), spread(matrix)
    free = solve(matrix, right_side)
    radius = share * (free.norm if free.usable else 10.0)
    solution = conjugate_gradients(
        product_with(matrix),
        right_side,
        Diagonal(diagonal),
        inner(),
        tolerance=1e-13,
        max_iterations=500,
        radius=radius,
    )
    assert solution.status == "boundary"
    assert solution.usable
    assert metric(diagonal, solution.value) == pytest.approx(radius, rel=1e-9)
    assert solution.norm == pytest.approx(radius, rel=1e-9)
    x = solution.value.flatten()
    assert solution.decrease == pytest.approx(float(right_side.flatten() @ x - x @ matrix @ x / 2), rel=1e-9)
    assert solution.decrease > 0


def test_a_wide_trust_region_changes_no_bit() -> None:
    matrix, right_side = definite(2, 1.0), normal(*SHAPE, seed=3)
    free = solve(matrix, right_side)
    wide = conjugate_gradients(
        product_with(matrix),
        right_side,
        Diagonal(spread(matrix)),
        inner(),
        tolerance=1e-13,
        max_iterations=500,
        radius=1e6,
    )
    assert torch.equal(wide.value, free.value)
    assert wide.status == free.status == "converged"


def test_length_and_decrease_of_a_solution() -> None:
    matrix, right_side = definite(3, 2.0), normal(*SHAPE, seed=8)
    solution = solve(matrix, right_side)
    x = solution.value.flatten()
    assert solution.norm == pytest.approx(metric(spread(matrix), solution.value), rel=1e-8)
    assert solution.decrease == pytest.approx(float(right_side.flatten() @ x / 2), rel=1e-9)


def test_a_step_that_no_number_can_hold_is_no_step() -> None:
    """Curvature that is positive and next to nothing: neither an overflow nor a solution."""
    solution = solve(1e-250 * torch.eye(SIZE, dtype=torch.float64), torch.ones(SHAPE, dtype=torch.float64))
    assert solution.status == "not_positive_definite"
    assert not solution.usable
