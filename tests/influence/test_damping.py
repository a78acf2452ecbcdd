"""What holds rows where they were: by degree, by squared gradients, and the scale that Adam's options say."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from ifru_dist.influence import dense as dense_module
from ifru_dist.influence.damping import adam_scale, gradient_damping, row_damping
from ifru_dist.influence.options import SolveOptions
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from tests.contract import reference as tuples
from tests.contract import shards
from tests.contract.cases import case_of, dot, tower
from tests.influence import reference
from tests.influence.local import after, objective_of, unlearn
from tests.influence.reference import CASES, Case, random_case
from tests.influence.test_rounds import few_erased, stationary

LARGE = [
    random_case(seed, users=40, items=30, examples=400, layer_weights=weights, l2=0.01, partitions=8)
    for seed, weights in ((1, (1.0,)), (2, (0.5, 0.5)))
]
EACH_CASE = pytest.mark.parametrize("case", [*CASES, *LARGE], ids=lambda case: f"{case.name}-{len(case.pairs)}")
SCALE = 1.7


def squares(case: Case) -> Tensor:
    """Sum over a row's examples of its squared gradients of the bare loss, a mean over columns, (rows,).

    Of graph models the gradients are those by the outputs, spread over the embeddings by the squares of each layer's
    walks, each layer by itself.
    """
    everything = torch.ones_like(case.erased)
    outputs = reference.propagation(case, everything) @ case.embeddings
    by_output = torch.zeros_like(outputs)
    for (u, i), y in zip(case.pairs.tolist(), case.label.tolist(), strict=True):
        error = torch.sigmoid(torch.dot(outputs[u], outputs[i])) - y
        by_output[u] += (error * outputs[i]) ** 2
        by_output[i] += (error * outputs[u]) ** 2
    step = reference.propagation(dataclasses.replace(case, layer_weights=(0.0, 1.0)), everything)
    total, spread = torch.zeros_like(by_output), by_output
    for weight in case.layer_weights:
        total, spread = total + weight**2 * spread, step.square() @ spread
    return total.mean(1)


def options(**changes: object) -> SolveOptions:
    values = {
        "damping": 0.8,
        "anchor": "gradient",
        "anchor_scale": SCALE,
        "product": "exact",
        "solver_tolerance": 1e-13,
        "max_iterations": 500,
        "product_dtype": torch.float64,
        "storage_dtype": torch.float64,
    }
    return SolveOptions(**{**values, **changes})


def test_the_degree_form_is_the_root_of_the_number_of_examples() -> None:
    degrees = torch.tensor([0, 1, 9])
    assert row_damping(0.5, degrees).tolist() == [0.0, 0.5, 1.5]


def test_the_gradient_form_is_the_root_of_the_squares_and_never_nothing() -> None:
    held = gradient_damping(0.5, torch.tensor([4.0, 0.25, 0.0], dtype=torch.float64))
    assert held.tolist()[:2] == [1.0, 0.25]
    assert 0 < float(held[2]) < 1e-5


def test_adams_scale_is_one_over_the_way_that_a_unit_force_would_go() -> None:
    assert adam_scale(0.01, 20, 25.0) == pytest.approx(1 / (0.01 * 20 * 5))
    learning_rate, epochs, batches, force, squared = 0.003, 7, 16, 0.2, 5.0
    step = learning_rate * (force / batches) / math.sqrt(squared / batches)  # gradient over its root mean square
    way = epochs * batches * step
    held = float(gradient_damping(adam_scale(learning_rate, epochs, batches), torch.tensor([squared])))
    assert way == pytest.approx(force / held, rel=1e-6)


def test_a_spring_of_that_strength_gives_way_as_far_as_adam_goes() -> None:
    """Alternating gradients of one size with a small constant force on top: Adam's way is about force / Lambda."""
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    learning_rate, epochs, batches, force, size = 1e-3, 40, 50, 0.5, 0.3
    adam = torch.optim.Adam([parameter], lr=learning_rate)
    for step in range(epochs * batches):
        parameter.grad = torch.tensor([size * (-1) ** step - force / batches], dtype=torch.float64)
        adam.step()
    squared = torch.tensor([batches * size**2], dtype=torch.float64)
    held = float(gradient_damping(adam_scale(learning_rate, epochs, batches), squared))
    assert float(parameter.detach()) == pytest.approx(force / held, rel=0.1)


@EACH_CASE
def test_squares_equal_dense_on_all_rows_whether_selected_or_not(case: Case) -> None:
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected)
    found = torch.empty(case.rows, dtype=torch.float64)
    found[shard.rows] = objective.start_squares()
    torch.testing.assert_close(found, squares(case), rtol=1e-9, atol=1e-12)
    own = objective.start_squares(everywhere=False)
    assert torch.equal(own[objective.positions], objective.start_squares()[objective.positions])
    for other in (objective.selecting(torch.ones_like(selected)), objective_of(case, selected, temperature=3.0)[1]):
        assert torch.equal(other.start_squares(), objective.start_squares())


@EACH_CASE
def test_an_update_equals_the_dense_step_with_this_anchor(case: Case) -> None:
    outcome = unlearn(case, options(importance="degree", hops=0, row_budget=10**6, newton_steps=1))
    moved, _ = reference.endpoint_masks(case)
    numbers = moved.repeat_interleave(3)
    held = 0.8 * SCALE * squares(case).sqrt().repeat_interleave(3)
    matrix = reference.gauss_newton(case, case.embeddings) + torch.diag(held)
    step = torch.linalg.solve(matrix[numbers][:, numbers], reference.residual(case, case.embeddings).flatten()[numbers])
    expected = case.embeddings.flatten().clone()
    expected[numbers] += step
    torch.testing.assert_close(after(case, outcome).flatten(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("layer_weights", [(1.0,), (0.5, 0.5)], ids=["mf", "lightgcn"])
def test_rows_that_enter_later_are_held_by_their_own_squares(layer_weights: tuple[float, ...]) -> None:
    case = random_case(3, users=12, items=10, examples=50, layer_weights=layer_weights, l2=0.01, partitions=4)
    case = stationary(few_erased(case))  # elsewhere rows that enter leave more than before, and are taken back
    limit = {"tolerance": 1e-8, "row_budget": "all", "max_newton_steps": 200, "solver_tolerance": 1e-3}
    outcome = unlearn(case, options(damping=0.5, **limit))
    moved, _ = reference.endpoint_masks(case)
    assert len([entry for entry in outcome.rounds if entry.kept]) > 1
    assert len(outcome.rows) > int(moved.sum())
    place, held = after(case, outcome), 0.5 * SCALE * squares(case).sqrt()[:, None]
    downhill = (reference.residual(case, place) - held * (place - case.embeddings))[outcome.rows]
    assert float(downhill.norm()) < 1e-7 * float(reference.residual(case, case.embeddings).norm())


# ------------------------------------------------------------------------------------------------------- other models


def tuple_squares(case: tuples.TupleCase) -> Tensor:
    """Weighted squares of every example's gradient of its bare loss by all parameters, (numbers,)."""

    def loss(vector: Tensor, rows: Tensor, label: Tensor) -> Tensor:
        embeddings, dense = case.split(vector)
        return tuples.losses(case, case.score(embeddings[rows], dense), label)

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(case.start, case.tuples, case.label)
    return (case.weight[:, None] * gradients.square()).sum(0)


@pytest.mark.parametrize(
    ("spec", "score"),
    [
        (ModelSpec(name="mf", dim=3, loss="bpr", negatives=2, l2=0.1), dot),
        (ModelSpec(name="neumf", dim=2, hidden=(4, 3), l2=0.1), tower),
    ],
    ids=["mf-bpr", "neumf"],
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_squares_of_tuples_and_of_dense_parameters_equal_dense(
    spec: ModelSpec, score: tuples.Score, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_module, "_DIAGONAL_STRIDE", 1)  # read every example, as an estimate need not
    case, model = case_of(spec, score, sizes=(7, 6), examples=26, seed=3), build_model(spec)
    if model.sampled_negatives:  # a negative is another item than the positive
        item, shift = case.tuples[:, 1] - 7, case.tuples[:, 2] % 5 + 1
        case = dataclasses.replace(case, tuples=torch.cat([case.tuples[:, :2], 7 + ((item + shift) % 6)[:, None]], 1))
    moving, _ = tuples.endpoints(case)
    width, free = case.embeddings.shape[1], "full" if case.dense else "frozen"
    count = -(-(len(case.start) - case.embeddings.numel()) // width)
    selected = torch.cat([moving, torch.ones(count, dtype=torch.bool)])
    shard, objective = shards.objective_of(case, model, selected, options(dense=free, temperature=temperature))
    expected = torch.zeros((case.rows + count) * width, dtype=torch.float64)
    expected[: len(case.start)] = tuple_squares(case)
    columns = torch.full((case.rows + count,), width)
    if count:  # the last row of the dense parameters is not full
        columns[-1] = len(case.start) - (case.rows + count - 1) * width
    expected = (expected.view(-1, width).sum(1) / columns)[shard.rows]
    torch.testing.assert_close(objective.start_squares(), expected, rtol=1e-8, atol=1e-12)
