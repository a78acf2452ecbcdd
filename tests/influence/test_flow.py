"""The path ``flow``: steps that follow gradient flow for a given time, against dense steps and the flow itself."""

import math

import pytest
import torch

from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.options import FLOW_STEPS, SolveOptions
from tests.influence import reference
from tests.influence.local import after, unlearn
from tests.influence.reference import CASES, Case
from tests.influence.test_update import CLOSE, EACH_CASE, KERNELS

EXACT = {
    "solver_tolerance": 1e-13,
    "product": "exact",
    "product_dtype": torch.float64,
    "storage_dtype": torch.float64,
}


def options(damping: float = 2.0, **changes: object) -> SolveOptions:
    return SolveOptions(**{"damping": damping, "path": "flow", "row_budget": 0, **EXACT, **changes})


@EACH_CASE
@KERNELS
@pytest.mark.parametrize("steps", [None, 1, 3])
def test_steps_are_anchored_where_they_begin(case: Case, kernels: Kernels, steps: int | None) -> None:
    outcome = unlearn(case, options(newton_steps=steps), kernels)
    endpoints, _ = reference.endpoint_masks(case)
    expected = reference.newton(case, endpoints, 2.0, steps or FLOW_STEPS, flow=True)
    assert outcome.status == "converged"
    assert outcome.newton_steps == (steps or FLOW_STEPS)
    torch.testing.assert_close(outcome.values, expected[outcome.rows], **CLOSE)


@EACH_CASE
def test_one_step_is_that_of_the_ridge(case: Case) -> None:
    flow, ridge = (unlearn(case, options(newton_steps=1, path=path)) for path in ("flow", "ridge"))
    torch.testing.assert_close(flow.values, ridge.values, **CLOSE)


def flow(case: Case, moving: torch.Tensor, damping: float, steps: int = 20) -> torch.Tensor:
    """E(1) of Lambda dE/dt = r(E), E(0) = E0 on the moving rows, by the classical Runge-Kutta method."""
    degree = torch.bincount(case.pairs.flatten(), minlength=case.rows).double()
    rate = (moving / (damping * degree.clamp(min=1).sqrt()))[:, None] / steps
    embeddings = case.embeddings
    for _ in range(steps):
        first = rate * reference.residual(case, embeddings)
        second = rate * reference.residual(case, embeddings + first / 2)
        third = rate * reference.residual(case, embeddings + second / 2)
        fourth = rate * reference.residual(case, embeddings + third)
        embeddings = embeddings + (first + 2 * second + 2 * third + fourth) / 6
    return embeddings


@EACH_CASE
def test_many_steps_go_to_where_gradient_flow_leads_in_the_time_that_lambda_stands_for(case: Case) -> None:
    endpoints, _ = reference.endpoint_masks(case)
    expected = flow(case, endpoints, 2.0)[endpoints]
    length = (expected - case.embeddings[endpoints]).norm()

    def error(steps: int) -> float:
        found = after(case, unlearn(case, options(newton_steps=steps)))
        return float((found[endpoints] - expected).norm() / length)

    one, four, sixteen, many = (error(steps) for steps in (1, 4, 16, 64))
    assert one > 2 * four > 4 * sixteen > 8 * many  # of the first order
    assert many < 0.01


def test_a_round_with_more_rows_starts_anew() -> None:
    case = CASES[4]
    outcome = unlearn(case, options(row_budget=math.inf, tolerance=1e-3))
    rows = [entry.rows for entry in outcome.rounds if entry.kept]
    assert len(rows) > 1
    assert rows == sorted(set(rows))
    selected = torch.zeros(case.rows, dtype=torch.bool)
    selected[outcome.rows] = True
    assert int(selected.sum()) == rows[-1]
    expected = reference.newton(case, selected, 2.0, FLOW_STEPS, flow=True)
    torch.testing.assert_close(outcome.values, expected[outcome.rows], **CLOSE)
