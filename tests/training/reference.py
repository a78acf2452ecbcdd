"""A small training problem, and its objective on a dense graph, example by example."""

import numpy as np
import torch
from torch import Tensor

from ifru_dist.models.spec import ModelSpec

N_USERS, N_ROWS, DIM = 9, 22, 4
MODELS = [
    ModelSpec(name="mf"),
    ModelSpec(name="mf", l2=0.3),
    ModelSpec(name="mf", l2_row=0.7),
    ModelSpec(name="lightgcn", layers=1),
    ModelSpec(name="lightgcn", layers=2, l2=0.3),
    ModelSpec(name="lightgcn", layers=2, l2=0.3, l2_row=0.7),
]


def model_id(spec: ModelSpec) -> str:
    return f"{spec.name}-{spec.layers}-{spec.l2}-{spec.l2_row}"


def examples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row pairs (n, 2), some rows more than once, of all users but the last; labels (n,) float64."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(0, N_USERS - 1, n), rng.integers(N_USERS, N_ROWS, n)], axis=1)
    return torch.from_numpy(rows), torch.from_numpy((rng.random(n) < 0.5).astype(np.float64))


EDGES = examples(30, seed=8)[0].numpy()


def start() -> Tensor:
    return torch.randn(N_ROWS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def reference_objective(spec: ModelSpec, embeddings: Tensor, rows: Tensor, labels: Tensor, n_examples: int) -> Tensor:
    """The mean objective of some of n examples, one by one, on a dense graph."""
    propagated = embeddings
    if spec.name == "lightgcn":
        counts = torch.zeros(N_ROWS, N_ROWS, dtype=torch.float64)
        for first, second in EDGES:
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
    return total / len(rows) + spec.l2_row / 2 * embeddings.square().sum() / n_examples


def reference_gradient(
    spec: ModelSpec, embeddings: Tensor, rows: Tensor, labels: Tensor, n_examples: int
) -> tuple[float, Tensor]:
    def objective(at: Tensor) -> Tensor:
        return reference_objective(spec, at, rows, labels, n_examples)

    gradient, value = torch.func.grad_and_value(objective)(embeddings)
    return value.item(), gradient
