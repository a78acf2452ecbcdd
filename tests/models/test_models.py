"""What every shipped model keeps to, whatever it computes."""

import pytest
import torch

from ifru_dist.models.base import Model, dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import SHIPPED, ModelSpec

SPECS = [
    ModelSpec(name=name, dim=4, hidden=(5, 3), loss=loss, fields=fields)
    for name, fields in (*((name, 2) for name in SHIPPED), ("fm", 4))
    for loss in ("bce", "squared", "bpr")
]
WIDTHS = {"mf": 4, "lightgcn": 4, "biased-mf": 5, "fm": 5, "neumf": 8}
each_model = pytest.mark.parametrize(
    "model", [build_model(spec) for spec in SPECS], ids=lambda model: f"{model.name}-{model.spec.loss}-{model.arity}"
)


def rows_of(model: Model, n: int) -> torch.Tensor:
    return torch.randn(n, model.arity, model.width, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def dense_of(model: Model) -> dict[str, torch.Tensor]:
    """Parameters that are nowhere zero."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: values.double() + 0.1 * torch.randn(values.shape, dtype=torch.float64, generator=generator)
        for name, values in dense_parameters(model, seed=5).items()
    }


def test_every_shipped_model_is_here() -> None:
    assert {spec.name for spec in SPECS} == set(SHIPPED) == set(WIDTHS)


@each_model
def test_its_shapes_are_those_of_its_spec(model: Model) -> None:
    assert model.width == WIDTHS[model.name]
    assert model.arity == model.spec.fields + (model.spec.loss == "bpr")
    assert model.sampled_negatives == (model.spec.negatives if model.spec.loss == "bpr" else 0)
    assert sum(model.layer_weights) == pytest.approx(1.0)
    assert model.loss.name == ("squared" if model.spec.loss == "squared" else "bce")


@each_model
def test_its_own_parameters_depend_on_the_seed_alone(model: Model) -> None:
    torch.manual_seed(0)
    first = dense_parameters(model, seed=5)
    torch.manual_seed(1)
    again, other = dense_parameters(model, seed=5), dense_parameters(model, seed=6)
    assert list(first) == list(again)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(values.dtype == torch.float32 for values in first.values())
    assert any(not torch.equal(first[name], other[name]) for name in first) == (model.name == "neumf")


@each_model
def test_a_score_depends_on_its_own_example_alone(model: Model) -> None:
    rows, dense = rows_of(model, 7), dense_of(model)
    scores = model.score(rows, dense)
    assert scores.shape == (7,)
    one_by_one = torch.cat([model.score(rows[place : place + 1], dense) for place in range(7)])
    torch.testing.assert_close(scores, one_by_one, rtol=1e-13, atol=1e-13)
    assert model.score(rows[:0], dense).shape == (0,)


@each_model
def test_the_same_scores_twice(model: Model) -> None:
    rows, dense = rows_of(model, 33), dense_of(model)
    assert torch.equal(model.score(rows, dense), model.score(rows, dense))
    assert torch.equal(
        model.predict(rows[:, : model.spec.fields], dense), model.predict(rows[:, : model.spec.fields], dense)
    )


@each_model
def test_what_is_ranked_by_is_what_is_trained(model: Model) -> None:
    rows, dense = rows_of(model, 9), dense_of(model)
    scores, fields = model.score(rows, dense), model.spec.fields
    predicted = model.predict(rows[:, :fields], dense)
    assert predicted.shape == (9,)
    if model.spec.loss == "bpr":
        assert model.scorer.score is not model.score
        negative = rows[:, :fields].clone()
        negative[:, 1] = rows[:, -1]
        torch.testing.assert_close(scores, predicted - model.predict(negative, dense))
    else:
        assert model.scorer is model
        assert torch.equal(scores, predicted)


@each_model
def test_a_dot_product_is_one(model: Model) -> None:
    assert model.dot_product == (model.name in ("mf", "lightgcn") and model.spec.loss != "bpr")
    if model.scorer.dot_product:
        rows = rows_of(model, 5)[:, :2]
        torch.testing.assert_close(model.predict(rows, {}), torch.einsum("nd,nd->n", rows[:, 0], rows[:, 1]))


@each_model
def test_torch_func_can_take_second_derivatives(model: Model) -> None:
    rows, dense = rows_of(model, 3), dense_of(model)

    def one(row: torch.Tensor) -> torch.Tensor:
        return model.score(row[None], dense)[0]

    hessians = torch.func.vmap(torch.func.hessian(one))(rows)
    assert hessians.shape == (3, model.arity, model.width, model.arity, model.width)
    step = 1e-5 * torch.randn(rows[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    gradient = torch.func.grad(one)
    change = (gradient(rows[0] + step) - gradient(rows[0] - step)) / 2
    torch.testing.assert_close((hessians[0] * step).sum(dim=(2, 3)), change, rtol=1e-6, atol=1e-12)
