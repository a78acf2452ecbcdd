"""Long chains of users and items, of which a batch can reach a part only: that part is all that it changes."""

import pytest
import torch
from torch import Tensor

from ifru_dist.influence.propagated import PropagatedObjective, PropagatedPoint
from tests.influence import reference
from tests.influence.local import objective_of, place_of
from tests.influence.reference import Case

USERS = 24
WEIGHTS = [(0.5, 0.5), (0.5, 0.3, 0.2), (0.4, 0.3, 0.2, 0.1)]
EACH_DEPTH = pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: f"{len(weights) - 1}-layers")
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def chain(weights: tuple[float, ...]) -> Case:
    """User u has the items u and u + 1, and every third dislikes one far away; one example in the middle goes."""
    pairs = [(u, USERS + u) for u in range(USERS)] + [(u, USERS + u + 1) for u in range(USERS - 1)]
    disliked = [(u, USERS + (u + 11) % USERS) for u in range(0, USERS, 3)]
    label = torch.cat([torch.ones(len(pairs)), torch.zeros(len(disliked))]).double()
    erased = torch.zeros(len(label), dtype=torch.bool)
    erased[10] = True
    generator = torch.Generator().manual_seed(7)
    return Case(
        sizes=(USERS, USERS),
        pairs=torch.tensor(pairs + disliked),
        label=label,
        erased=erased,
        embeddings=torch.randn(2 * USERS, 3, generator=generator, dtype=torch.float64),
        layer_weights=weights,
        l2=0.05,
        partitions=4,
        l2_row=0.1,
    )


def selection(case: Case) -> Tensor:
    """The two ends of the example that goes, and a user four edges away."""
    selected = torch.zeros(case.rows, dtype=torch.bool)
    selected[case.pairs[case.erased].flatten()] = True
    selected[12] = True
    return selected


def moved_point(case: Case, **options: object) -> tuple[PropagatedObjective, PropagatedPoint, Tensor]:
    """An objective, a point to which the selected rows have moved, and all embeddings there by global row."""
    shard, objective = objective_of(case, selection(case), **options)
    assert isinstance(objective, PropagatedObjective)
    embeddings = case.embeddings.clone()
    embeddings[selection(case)] += 0.3
    return objective, objective.at(place_of(objective, embeddings[shard.rows])), embeddings


def by_row(objective: PropagatedObjective, values: Tensor) -> Tensor:
    """Values (n, d) in the order of the shard, in that of the global rows."""
    result = torch.empty_like(values)
    result[objective.problem.shard.rows] = values
    return result


@EACH_DEPTH
def test_outputs_change_nowhere_but_in_the_neighbourhood_and_are_right_there(weights: tuple[float, ...]) -> None:
    case = chain(weights)
    objective, point, embeddings = moved_point(case)
    before = reference.propagation(case, torch.ones_like(case.erased)) @ case.embeddings
    after = reference.propagation(case, ~case.erased) @ embeddings
    members = objective.near.members
    assert 3 < int(members.sum()) < case.rows / 2
    torch.testing.assert_close((after - before)[~members], torch.zeros_like(after[~members]), **CLOSE)
    near = objective.problem.shard.rows[objective.near.positions]
    torch.testing.assert_close(point.state.rows, after[near], **CLOSE)
    torch.testing.assert_close(by_row(objective, objective.outputs(point.place)), after, **CLOSE)


@EACH_DEPTH
def test_neighbourhood_is_what_walks_of_as_many_edges_as_layers_reach(weights: tuple[float, ...]) -> None:
    case = chain(weights)
    objective, _, _ = moved_point(case)
    reached = reference.propagation(case, torch.ones_like(case.erased))[:, selection(case)].abs().sum(1) > 0
    assert torch.equal(objective.near.members, reached)


@EACH_DEPTH
def test_change_of_the_graph_is_exact_there_for_values_that_are_everywhere(weights: tuple[float, ...]) -> None:
    case = chain(weights)
    objective, _, _ = moved_point(case)
    rows = objective.problem.shard.rows[objective.near.positions]
    change = reference.propagation(case, ~case.erased) - reference.propagation(case, torch.ones_like(case.erased))
    found = objective.near.graph_change(case.embeddings[rows])
    torch.testing.assert_close(found, (change @ case.embeddings)[rows], **CLOSE)
    assert found.abs().max() > 0.01


@EACH_DEPTH
def test_residual_is_that_of_the_dense_reference_on_the_selected_and_on_all_rows(weights: tuple[float, ...]) -> None:
    case = chain(weights)
    objective, point, embeddings = moved_point(case)
    expected = reference.residual(case, embeddings)
    torch.testing.assert_close(by_row(objective, point.everywhere()), expected, **CLOSE)
    selected = objective.problem.shard.rows[objective.positions]
    torch.testing.assert_close(point.residual(), expected[selected], **CLOSE)
    assert expected[~objective.near.members].abs().max() > 1e-3


@EACH_DEPTH
def test_exact_product_is_that_of_the_dense_hessian(weights: tuple[float, ...]) -> None:
    case = chain(weights)
    objective, point, embeddings = moved_point(case, curvature="hessian")
    rows = objective.problem.shard.rows[objective.positions]
    columns = (3 * rows[:, None] + torch.arange(3)).flatten()
    matrix = reference.hessian(case, embeddings).reshape(3 * case.rows, -1)[columns][:, columns]
    vector = torch.linspace(-1, 1, len(columns), dtype=torch.float64)
    product = point.curvature("hessian").product(vector.view(-1, 3))
    torch.testing.assert_close(product.flatten(), matrix @ vector, **CLOSE)


def test_squares_of_the_selected_rows_are_those_of_all_rows() -> None:
    objective, _, _ = moved_point(chain(WEIGHTS[1]), temperature=1.5)
    everywhere, selected = objective.start_squares(), objective.start_squares(everywhere=False)
    torch.testing.assert_close(selected[objective.positions], everywhere[objective.positions], **CLOSE)
