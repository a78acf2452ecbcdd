"""Block preconditioning against dense blocks, and when it is chosen."""

import pytest
import torch

from ifru_dist.influence import preconditioner as module
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.kernels_torch import TorchKernels
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.preconditioner import Blocks, Diagonal, make_preconditioner
from tests.influence import reference
from tests.influence.local import objective_of, place_of, unlearn
from tests.influence.reference import CASES, Case, random_case

KERNELS = pytest.mark.parametrize("kernels", [NumbaKernels(), TorchKernels()], ids=["numba", "torch"])
DIRECT = pytest.mark.parametrize("case", CASES[:3], ids=[case.name for case in CASES[:3]])


def curvature_of(case: Case, kernels: Kernels):
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected, kernels)
    return shard.rows[objective.positions], objective.at(place_of(objective)).curvature("gauss-newton")


@DIRECT
@KERNELS
def test_blocks_equal_dense(case: Case, kernels: Kernels) -> None:
    rows, curvature = curvature_of(case, kernels)
    chosen = torch.arange(0, len(rows), 2)
    dense = reference.gauss_newton(case, case.embeddings).reshape(case.rows, 3, case.rows, 3)
    expected = torch.stack([dense[row, :, row] for row in rows[chosen].tolist()])
    torch.testing.assert_close(curvature.blocks(chosen), expected, rtol=1e-9, atol=1e-11)


@DIRECT
@KERNELS
def test_solving_with_blocks_equals_dense(case: Case, kernels: Kernels) -> None:
    rows, curvature = curvature_of(case, kernels)
    damping = torch.linspace(0.2, 1.0, len(rows), dtype=torch.float64)[:, None]
    residual = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = residual.clone()
    preconditioner = make_preconditioner(curvature, damping, "block", kernels, 0)
    solved = preconditioner.solve(residual, torch.empty_like(residual))
    blocks = curvature.blocks(torch.arange(len(rows))) + damping[:, :, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(solved, torch.linalg.solve(blocks, residual), rtol=1e-6, atol=1e-8)
    assert torch.equal(residual, given)


def test_rows_without_curvature_or_with_few_edges_do_not_fail() -> None:
    """Without damping the block of a row with fewer edges than dimensions is singular, that of one without is zero."""
    case = CASES[0]
    rows, curvature = curvature_of(case, NumbaKernels())
    curvature.diagonal[0] = 0
    none = torch.zeros(len(rows), 1, dtype=torch.float64)
    residual = torch.ones(len(rows), 3, dtype=torch.float64)
    solved = make_preconditioner(curvature, none, "block", NumbaKernels(), 0).solve(
        residual, torch.empty_like(residual)
    )
    assert bool(torch.isfinite(solved).all())
    assert torch.equal(solved[0], residual[0])
    assert float((solved * residual).sum()) > 0


@pytest.mark.parametrize(
    ("kind", "iterations", "expected"),
    [
        ("diagonal", 10**6, Diagonal),
        ("block", 0, Blocks),
        ("auto", 2, Diagonal),
        ("auto", 3, Blocks),
    ],
)
def test_blocks_are_formed_when_they_pay(kind: str, iterations: int, expected: type) -> None:
    rows, curvature = curvature_of(CASES[0], NumbaKernels())
    assert 2 <= module.BLOCK_COST * 3 < 3
    chosen = make_preconditioner(curvature, torch.ones(len(rows), 1).double(), kind, NumbaKernels(), iterations)
    assert type(chosen) is expected


def test_blocks_save_iterations_where_the_diagonal_is_a_poor_guide() -> None:
    case = random_case(3, users=40, items=30, examples=700, layer_weights=(1.0,), l2=0.0, partitions=8)
    case.embeddings[:, 1:] += 3 * case.embeddings[:, :1]  # coordinates that go together
    counts = {}
    for kind in ("diagonal", "block"):
        options = SolveOptions(damping=0.01, newton_steps=1, row_budget=0, preconditioner=kind, solver_tolerance=1e-6)
        counts[kind] = unlearn(case, options).iterations[0]
    assert counts["block"] < 0.7 * counts["diagonal"]


@pytest.mark.parametrize("dim", [1, 3, 17])
def test_factors_are_those_of_a_library(dim: int) -> None:
    root = torch.randn(5, dim, dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64)
    blocks = root @ root.transpose(1, 2) + torch.eye(dim, dtype=torch.float64)
    factors = NumbaKernels().factor(blocks.clone())
    torch.testing.assert_close(factors.tril(), torch.linalg.cholesky(blocks), rtol=1e-10, atol=1e-10)
