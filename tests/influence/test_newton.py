"""Newton steps against dense minimisers, and every way in which a descent ends."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from ifru_dist.influence.options import REMEDIES, USABLE, SolveOptions
from tests.influence import reference
from tests.influence.local import after, unlearn
from tests.influence.reference import CASES, Case

EACH_CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
CONVEX = 8.0
"""A damping with which every case's tilted objective has one minimum nearby."""


def options(**changes: object) -> SolveOptions:
    values = {
        "damping": CONVEX,
        "tolerance": 1e-9,
        "solver_tolerance": 1e-3,
        "row_budget": 0,
        "max_newton_steps": 100,
        "product_dtype": torch.float64,
        "product": "exact",
        "storage_dtype": torch.float64,
    }
    return SolveOptions(**{**values, **changes})


def minimum(case: Case, rows: Tensor, damping: float) -> Tensor:
    """Embeddings that minimise the tilted objective over some rows, by scipy."""

    def place(flat: np.ndarray) -> Tensor:
        embeddings = case.embeddings.clone()
        embeddings[rows] = torch.from_numpy(flat.reshape(len(rows), -1))
        return embeddings

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        gradient, value = torch.func.grad_and_value(reference.tilted, argnums=1)(case, place(flat), damping)
        return float(value), gradient[rows].numpy().ravel()

    start = case.embeddings[rows].numpy().ravel()
    found = scipy.optimize.minimize(value_and_gradient, start, jac=True, options={"gtol": 1e-10, "maxiter": 5000})
    return place(found.x)


@EACH_CASE
@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
@pytest.mark.parametrize("preconditioner", ["diagonal", "block"])
def test_steps_go_to_the_minimum(case: Case, curvature: str, preconditioner: str) -> None:
    outcome = unlearn(case, options(curvature=curvature, preconditioner=preconditioner))
    assert outcome.status == "converged"
    expected = minimum(case, outcome.rows, CONVEX)
    torch.testing.assert_close(after(case, outcome), expected, rtol=1e-6, atol=1e-7)
    change = float(reference.tilted(case, expected, CONVEX))
    assert outcome.objective_change == pytest.approx(change, rel=1e-9)
    assert change < 0


def test_the_hessian_needs_fewer_steps_close_to_the_minimum() -> None:
    steps = {kind: len(unlearn(CASES[0], options(curvature=kind)).iterations) for kind in ("gauss-newton", "hessian")}
    assert steps["hessian"] < steps["gauss-newton"]


@EACH_CASE
@pytest.mark.parametrize("damping", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_whatever_the_damping_the_objective_never_rises(case: Case, damping: float, curvature: str) -> None:
    outcome = unlearn(case, options(damping=damping, curvature=curvature, tolerance=1e-4))
    assert outcome.status in (*USABLE, "diverged")
    change = float(reference.tilted(case, after(case, outcome), damping))
    assert change < 0
    assert outcome.objective_change == pytest.approx(change, rel=1e-7)


def test_a_singular_curvature_without_damping_is_refused() -> None:
    outcome = unlearn(CASES[0], options(damping=0.0))
    assert outcome.status == "not_positive_definite"
    assert outcome.status not in USABLE
    assert "raise --damping" in REMEDIES[outcome.status]


def test_a_step_too_long_is_taken_again_in_a_trust_region() -> None:
    """One undamped step from random embeddings overshoots by far: without a trust region the objective would rise."""
    case = replace(CASES[2], embeddings=3 * CASES[2].embeddings)
    selected, _ = reference.endpoint_masks(case)
    far = reference.newton(case, selected, damping=0.01, steps=1)
    assert float(reference.tilted(case, far, 0.01)) > 0
    outcome = unlearn(case, options(newton_steps=1, damping=0.01, solver_tolerance=1e-12))
    assert outcome.objective_change < 0
    assert len(outcome.iterations) > 1


def test_a_gradient_that_grows_ends_the_descent_before_it() -> None:
    case = CASES[0]
    chosen = options(damping=0.02, tolerance=1e-6)
    outcome = unlearn(case, chosen)
    assert outcome.status == "no_contraction"
    steps = len(outcome.iterations)
    norms = []
    for count in range(1, steps + 1):
        point = after(case, unlearn(case, replace(chosen, newton_steps=count)))
        gradient = torch.func.grad(reference.tilted, argnums=1)(case, point, 0.02)
        norms.append(float(gradient[outcome.rows].norm()))
    best = int(np.argmin(norms)) + 1
    kept = after(case, unlearn(case, replace(chosen, newton_steps=best)))
    torch.testing.assert_close(after(case, outcome), kept, rtol=0, atol=0)


def test_a_given_number_of_steps_is_taken() -> None:
    for steps in (1, 2, 5):
        assert len(unlearn(CASES[1], options(newton_steps=steps)).iterations) == steps


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"max_newton_steps": 1}, "max_newton_steps"),
        ({"max_iterations": 1, "solver_tolerance": 1e-9, "newton_steps": 2}, "max_iterations"),
    ],
)
def test_limits_leave_a_usable_update_and_a_remedy(changes: dict[str, object], status: str) -> None:
    outcome = unlearn(CASES[1], options(**changes))
    assert outcome.status == status
    assert status in USABLE
    assert REMEDIES[outcome.status]
    assert outcome.objective_change < 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(value: float) -> None:
    selected, _ = reference.endpoint_masks(CASES[0])
    embeddings = CASES[0].embeddings.clone()
    embeddings[torch.nonzero(selected)[0]] = value
    outcome = unlearn(replace(CASES[0], embeddings=embeddings), options(newton_steps=1))
    assert outcome.status == "not_finite"
    assert outcome.status not in USABLE


def test_an_influence_under_the_tables_resolution_moves_nothing() -> None:
    """Erased examples that the model fits to the last bit leave steps that float32 cannot hold."""
    case = CASES[0]
    pairs, label = case.pairs[:4], torch.ones(4, dtype=torch.float64)
    embeddings = torch.full_like(case.embeddings, 3.0)
    tiny = replace(case, pairs=pairs, label=label, erased=torch.tensor([True, False, False, False]))
    tiny = replace(tiny, embeddings=embeddings.float().double(), pairs=torch.tensor([[1, 8], [1, 9], [2, 8], [2, 9]]))
    outcome = unlearn(tiny, options(storage_dtype=torch.float32))
    assert outcome.status == "under_resolution"
    assert torch.equal(after(tiny, outcome), tiny.embeddings)
    assert REMEDIES[outcome.status]
