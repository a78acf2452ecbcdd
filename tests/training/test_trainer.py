import numpy as np
import pytest
import torch
from torch import Tensor

from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.trainer import Trainer

N_USERS, N_ROWS, DIM = 9, 22, 4
MODELS = [
    ModelSpec(name="mf"),
    ModelSpec(name="mf", l2=0.3),
    ModelSpec(name="lightgcn", layers=1),
    ModelSpec(name="lightgcn", layers=2, l2=0.3),
]
each_model = pytest.mark.parametrize("spec", MODELS, ids=lambda spec: f"{spec.name}-{spec.layers}-{spec.l2}")


def examples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row pairs (n, 2), some rows more than once, of all users but the last; labels (n,) float64."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(0, N_USERS - 1, n), rng.integers(N_USERS, N_ROWS, n)], axis=1)
    return torch.from_numpy(rows), torch.from_numpy((rng.random(n) < 0.5).astype(np.float64))


def edges() -> np.ndarray:
    return examples(30, seed=8)[0].numpy()


def start() -> Tensor:
    return torch.randn(N_ROWS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def reference_objective(spec: ModelSpec, embeddings: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The mean objective of the examples, one by one, on a dense graph."""
    propagated = embeddings
    if spec.name == "lightgcn":
        counts = torch.zeros(N_ROWS, N_ROWS, dtype=torch.float64)
        for first, second in edges():
            counts[first, second] += 1
            counts[second, first] += 1
        scale = counts.sum(dim=1).clamp(min=1).rsqrt()
        adjacency = scale[:, None] * counts * scale
        layers = [embeddings]
        for _ in range(spec.layers):
            layers.append(adjacency @ layers[-1])
        propagated = torch.stack(layers).mean(dim=0)
    total = torch.zeros((), dtype=torch.float64)
    for (user, item), label in zip(rows, labels, strict=True):
        q = torch.sigmoid(propagated[user] @ propagated[item])
        total = total - label * torch.log(q) - (1 - label) * torch.log(1 - q)
        total = total + spec.l2 / 2 * (embeddings[user].square().sum() + embeddings[item].square().sum())
    return total / len(rows)


def reference_gradient(spec: ModelSpec, embeddings: Tensor, rows: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    objective = reference_objective(spec, embeddings, rows, labels)
    return objective.item(), torch.autograd.grad(objective, embeddings)[0]


@each_model
def test_gradient_equals_autograd_through_the_whole_objective(spec: ModelSpec) -> None:
    rows, labels = examples(50, seed=1)
    objective, gradient = Trainer(build_model(spec), start(), edges(), 1e-3).objective(rows, labels)
    expected, expected_gradient = reference_gradient(spec, start(), rows, labels)
    assert objective == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-14)


@each_model
def test_steps_equal_hand_written_adam(spec: ModelSpec) -> None:
    embeddings, expected = start(), start()
    trainer = Trainer(build_model(spec), embeddings, edges(), 0.01)
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for t in range(1, 5):
        rows, labels = examples(13, seed=t)
        objective = trainer.step(rows, labels)
        expected_objective, gradient = reference_gradient(spec, expected, rows, labels)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        expected = expected - 0.01 * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        assert objective == pytest.approx(expected_objective, rel=1e-11)
        torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-12)


def test_rows_that_the_batch_does_not_hold_move_on() -> None:
    embeddings = start()
    trainer = Trainer(build_model(ModelSpec()), embeddings, edges(), 0.01)
    trainer.step(torch.tensor([[0, N_USERS]]), torch.tensor([1.0], dtype=torch.float64))
    before = embeddings.clone()
    trainer.step(torch.tensor([[1, N_USERS + 1]]), torch.tensor([1.0], dtype=torch.float64))
    assert (embeddings[[0, N_USERS]] != before[[0, N_USERS]]).all()
    assert torch.equal(embeddings[2], start()[2])


@each_model
def test_scores_are_those_of_the_propagated_rows(spec: ModelSpec) -> None:
    trainer = Trainer(build_model(spec), start(), edges(), 0.01)
    rows, labels = examples(6, seed=2)
    scores = trainer.scores(rows.numpy())
    for row, label, score in zip(rows, labels, scores, strict=True):
        regulariser = spec.l2 / 2 * start()[row].square().sum().item()
        loss = reference_objective(spec, start(), row[None], label[None]).item() - regulariser
        assert np.logaddexp(0, (1 - 2 * label.item()) * score) == pytest.approx(loss, rel=1e-12)
