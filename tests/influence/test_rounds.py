"""Rows in rounds: what enters, in which order, within which budget, and what is taken back."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ifru_dist.influence.damping import row_damping
from ifru_dist.influence.importance import select_by_step
from ifru_dist.influence.options import AUTO_ROWS, SolveOptions
from tests.influence import reference
from tests.influence.local import after, communicator_of, objective_of, place_of, unlearn
from tests.influence.reference import CASES, Case, random_case

DAMPING = 4.0
LARGE = [
    random_case(seed, users=40, items=30, examples=400, layer_weights=weights, l2=0.01, partitions=8)
    for seed, weights in ((1, (1.0,)), (2, (1.0,)), (3, (0.5, 0.5)))
]
EACH_LARGE = pytest.mark.parametrize("case", LARGE, ids=["mf-1", "mf-2", "lightgcn"])


def options(**changes: object) -> SolveOptions:
    values = {
        "damping": DAMPING,
        "tolerance": 1e-3,
        "row_budget": "all",
        "product_dtype": torch.float64,
        "product": "exact",
        "storage_dtype": torch.float64,
    }
    return SolveOptions(**{**values, **changes})


def few_erased(case: Case) -> Case:
    """The case with only its first two erased examples, so that most rows are no endpoints."""
    gone = torch.nonzero(case.erased).flatten()[:2]
    return replace(case, erased=torch.zeros_like(case.erased).index_fill(0, gone, True))


def stationary(case: Case) -> Case:
    """The case at a minimum of its objective with a strong per-row decay, found by dense Newton steps."""
    case = replace(case, l2_row=0.8 if len(case.layer_weights) == 1 else 0.3)
    everything = torch.ones_like(case.erased)
    embeddings = case.embeddings.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([embeddings], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = reference.objective(case, everything, embeddings)
        value.backward()
        return value

    optimiser.step(closure)
    assert float(embeddings.detach().norm()) > 1
    return replace(case, embeddings=embeddings.detach())


@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=lambda case: f"{case.name}-{len(case.pairs)}")
def test_the_residual_outside_equals_dense(case: Case) -> None:
    case = few_erased(case)
    selected, emptied = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected)
    moved = reference.newton(case, selected, damping=0.3, steps=1)
    outside = objective.outside(objective.at(place_of(objective, moved[shard.rows].contiguous())))
    dense = reference.residual(case, moved)
    expected = torch.zeros_like(dense)
    rows = shard.rows[outside.positions]
    expected[rows] = outside.residual
    expected[selected | emptied] = dense[selected | emptied]
    torch.testing.assert_close(expected, dense, rtol=1e-8, atol=1e-10)
    assert not bool(selected[rows].any())
    assert bool((outside.diagonal() >= 0).all())


def test_the_diagonal_outside_is_exact_where_all_of_a_rows_edges_are_read() -> None:
    case = LARGE[0]
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected)
    outside = objective.outside(objective.at(place_of(objective)))
    dense = reference.gauss_newton(case, case.embeddings).diagonal().reshape(case.embeddings.shape)
    checked = 0
    for position, row in zip(outside.positions.tolist(), shard.rows[outside.positions].tolist(), strict=True):
        far = shard.edges.of(torch.tensor([position])).others
        if bool(selected[far[:, 0]].all()):
            place = int(torch.nonzero(outside.positions == position))
            torch.testing.assert_close(outside.diagonal()[place], dense[row], rtol=1e-8, atol=1e-10)
            checked += 1
    assert checked > 0


@EACH_LARGE
@pytest.mark.parametrize("budget", [0, 5, 9, 1000])
@pytest.mark.parametrize("allowed", [0.0, 0.2])
def test_the_rows_with_the_longest_steps_enter(case: Case, budget: int, allowed: float) -> None:
    case = few_erased(case)
    shard, objective = objective_of(case, reference.endpoint_masks(case)[0])
    selected, communicator = reference.endpoint_masks(case)[0][shard.rows], communicator_of(shard)
    moved = reference.newton(case, reference.endpoint_masks(case)[0], damping=0.3, steps=1)[shard.rows].contiguous()
    outside = objective.outside(objective.at(place_of(objective, moved)))
    anchor = row_damping(0.3, shard.degrees)
    wider = select_by_step(shard, selected, outside, anchor, communicator, allowed_norm=allowed, row_budget=budget)
    candidates = []
    for k, position in enumerate(outside.positions.tolist()):
        curvature = outside.diagonal()[k] + anchor[position]
        step = outside.residual[k] / torch.where(curvature > 0, curvature, 1.0)
        candidates.append((-float(step.norm()), int(shard.rows[position]), float(outside.residual[k].square().sum())))
    candidates.sort()
    count, chosen = int(selected.sum()), []
    for k, (_, row, _) in enumerate(candidates):
        rest = sum(squared for _, _, squared in candidates[k:])
        if rest <= allowed**2 or len(chosen) >= min(max(count, 1), budget - count):
            break
        chosen.append(row)
    assert set(shard.rows[wider & ~selected].tolist()) == set(chosen)
    assert bool((wider | ~selected).all())


@EACH_LARGE
def test_rounds_end_when_the_rest_is_under_the_tolerance(case: Case) -> None:
    case = stationary(few_erased(case))
    outcome = unlearn(case, options(tolerance=0.02, damping=0.0))
    rows = [entry.rows for entry in outcome.rounds]
    assert len(rows) > 1
    assert rows == sorted(set(rows))
    assert all(after <= 2 * before for before, after in pairwise(rows))
    left = [entry.residual_outside for entry in outcome.rounds]
    assert left == sorted(left, reverse=True)
    assert left[-1] <= 0.02 < left[-2]
    assert outcome.rounds[-1].kept
    expected = reference.residual(case, after(case, outcome))
    solved = ~reference.endpoint_masks(case)[1]
    start = reference.residual(case, case.embeddings)[solved].norm()
    assert outcome.influence_residual == pytest.approx(float(expected[solved].norm() / start), rel=1e-7)


@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=lambda case: f"{case.name}-{len(case.pairs)}")
def test_other_rows_of_the_same_batch_see_the_same_points(case: Case) -> None:
    case = few_erased(case)
    selected, emptied = reference.endpoint_masks(case)
    shard, first = objective_of(case, selected)
    wider = selected | (torch.arange(case.rows) % 3 == 0) & ~emptied
    second = first.selecting(wider[shard.rows])
    for objective, rows in ((first, selected), (second, wider)):
        for point in (case.embeddings, reference.newton(case, selected, damping=0.3, steps=1)):
            at = objective.at(place_of(objective, point[shard.rows].contiguous()))
            own = shard.rows[objective.positions]
            assert sorted(own.tolist()) == torch.nonzero(rows).flatten().tolist()
            torch.testing.assert_close(at.residual(), reference.residual(case, point)[own], rtol=1e-8, atol=1e-10)
            assert at.curvature("gauss-newton").diagonal.shape == (len(own), case.embeddings.shape[1])


@EACH_LARGE
@pytest.mark.parametrize("damping", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("tolerance", [0.3, 0.01])
def test_every_end_is_what_it_says(case: Case, damping: float, tolerance: float) -> None:
    """A converged update has its gradient under the tolerance, and no update leaves more than the round before it."""
    outcome = unlearn(few_erased(case), options(damping=damping, tolerance=tolerance))
    moved = after(case, outcome)
    gradient = torch.func.grad(reference.tilted, argnums=1)(few_erased(case), moved, damping)
    solved = ~reference.endpoint_masks(few_erased(case))[1]
    start = float(reference.residual(few_erased(case), case.embeddings)[solved].norm())
    if outcome.status == "converged":
        assert float(gradient[outcome.rows].norm()) <= tolerance * start * (1 + 1e-9)
    assert outcome.newton_steps <= sum(len(entry.iterations) for entry in outcome.rounds if entry.kept)
    alone = unlearn(few_erased(case), options(damping=damping, tolerance=tolerance, row_budget=0))
    if outcome.status == alone.status == "converged":
        assert outcome.influence_residual <= alone.influence_residual + tolerance


@EACH_LARGE
def test_endpoints_that_need_no_step_leave_the_next_round_to_start_from_the_model(case: Case) -> None:
    """With a tolerance that the endpoints are under already, rows enter before anything has moved."""
    case = few_erased(case)
    pinned = reference.endpoint_masks(case)[0]
    residual = reference.residual(case, case.embeddings)
    solved = ~reference.endpoint_masks(case)[1]
    share = float(residual[pinned].norm() / residual[solved].norm())
    outcome = unlearn(case, options(tolerance=min(0.999, share * 1.01), damping=20.0))
    assert outcome.status in ("converged", "no_contraction")
    if share < 0.99:
        assert outcome.newton_steps == 0
        assert outcome.influence_residual == pytest.approx(1.0)


@EACH_LARGE
@pytest.mark.parametrize("extra", [0, 3, 11])
def test_no_row_enters_past_the_budget(case: Case, extra: int) -> None:
    case = stationary(few_erased(case))
    pinned = int(reference.endpoint_masks(case)[0].sum())
    outcome = unlearn(case, options(row_budget=pinned + extra, damping=0.0))
    assert max(entry.rows for entry in outcome.rounds) == pinned + extra


def test_a_round_that_leaves_more_outside_is_taken_back() -> None:
    """Random embeddings are far from stationary: with little damping rows that enter lead away."""
    taken_back = 0
    for seed in range(8):
        case = few_erased(
            random_case(seed, users=40, items=30, examples=400, layer_weights=(1.0,), l2=0.0, partitions=8)
        )
        outcome = unlearn(case, options(damping=0.05, newton_steps=1))
        assert outcome.influence_residual <= unlearn(
            case, options(damping=0.05, newton_steps=1, row_budget=0)
        ).influence_residual * (1 + 1e-9)
        if outcome.rounds[-1].kept:
            continue
        taken_back += 1
        before = unlearn(case, options(damping=0.05, newton_steps=1, row_budget=outcome.rounds[-2].rows))
        assert torch.equal(after(case, outcome), after(case, before))
    assert taken_back > 0


def test_an_automatic_budget_looks_at_how_unfinished_training_was() -> None:
    case = few_erased(LARGE[0])
    early = unlearn(case, options(row_budget="auto"))
    assert early.stationarity > 1
    assert len(early.rounds) == 1
    # Per-row decay that makes the same embeddings a stationary point: erase from a model that has converged.
    converged = stationary(case)
    late = unlearn(converged, options(row_budget="auto", damping=0.0))
    pinned = int(reference.endpoint_masks(case)[0].sum())
    assert late.stationarity < 1e-3
    assert len(late.rounds) > 1
    assert pinned < late.rounds[-1].rows <= AUTO_ROWS * pinned
