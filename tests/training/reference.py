"""A small training problem, and its objective on a dense graph, example by example, for every model that is shipped."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ifru_dist.models.spec import ModelSpec

N_USERS, N_ITEMS, N_HOURS = 9, 13, 4
N_ROWS, DIM = N_USERS + N_ITEMS, 4
MODELS = [
    ModelSpec(name="mf", dim=DIM),
    ModelSpec(name="mf", dim=DIM, l2=0.3),
    ModelSpec(name="mf", dim=DIM, l2_row=0.7),
    ModelSpec(name="mf", dim=DIM, loss="squared", l2=0.3),
    ModelSpec(name="mf", dim=DIM, loss="bpr", l2=0.3),
    ModelSpec(name="biased-mf", dim=DIM, l2=0.3),
    ModelSpec(name="biased-mf", dim=DIM, loss="bpr", l2_row=0.7),
    ModelSpec(name="lightgcn", dim=DIM, layers=1),
    ModelSpec(name="lightgcn", dim=DIM, layers=2, l2=0.3),
    ModelSpec(name="lightgcn", dim=DIM, layers=2, l2=0.3, l2_row=0.7),
    ModelSpec(name="lightgcn", dim=DIM, layers=3, loss="bpr", l2=0.3),
    ModelSpec(name="neumf", dim=DIM, hidden=(5, 3), l2=0.3),
    ModelSpec(name="neumf", dim=DIM, hidden=(5, 3), l2_dense=0.9),
    ModelSpec(name="neumf", dim=DIM, hidden=(5,), loss="bpr", l2_row=0.7),
    ModelSpec(name="fm", dim=DIM, fields=3, l2=0.3),
    ModelSpec(name="fm", dim=DIM, fields=3, loss="bpr", l2_row=0.7),
]


def model_id(spec: ModelSpec) -> str:
    return f"{spec.name}-{spec.loss}-{spec.layers}-{spec.l2}-{spec.l2_row}-{spec.l2_dense}"


def sizes(spec: ModelSpec) -> tuple[int, ...]:
    """Rows of each table."""
    return (N_USERS, N_ITEMS, N_HOURS)[: spec.fields]


def examples(n: int, seed: int, spec: ModelSpec = MODELS[0]) -> tuple[Tensor, Tensor]:
    """Row tuples (n, arity), some rows more than once, of all users but the last; labels (n,) float64."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, N_USERS - 1, n), rng.integers(N_USERS, N_ROWS, n)]
    labels = (rng.random(n) < 0.5).astype(np.float64)
    columns += [rng.integers(N_ROWS, N_ROWS + N_HOURS, n)] if spec.fields == 3 else []
    if spec.loss == "bpr":
        columns, labels = [*columns, rng.integers(N_USERS, N_ROWS, n)], np.ones(n)
    return torch.from_numpy(np.stack(columns, axis=1)), torch.from_numpy(labels)


EDGES = examples(30, seed=8)[0].numpy()


@dataclass
class Point:
    """Parameters of a model: embedding rows, and its own."""

    embeddings: Tensor
    dense: dict[str, Tensor]

    @property
    def all(self) -> list[Tensor]:
        return [self.embeddings, *self.dense.values()]


def start(spec: ModelSpec = MODELS[0]) -> Point:
    """Random parameters in float64."""
    generator = torch.Generator().manual_seed(4)
    width = {"biased-mf": DIM + 1, "fm": DIM + 1, "neumf": 2 * DIM}.get(spec.name, DIM)
    shapes: dict[str, tuple[int, ...]] = {"bias": ()} if spec.name in ("biased-mf", "fm", "neumf") else {}
    if spec.name == "neumf":
        inputs = (2 * DIM, *spec.hidden)
        for layer, outputs in enumerate(spec.hidden):
            shapes |= {f"weight{layer}": (inputs[layer], outputs), f"bias{layer}": (outputs,)}
        shapes["output"] = (DIM + spec.hidden[-1],)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes.values()]
    rows = torch.randn(sum(sizes(spec)), width, dtype=torch.float64, generator=generator)
    return Point(rows, dict(zip(shapes, drawn, strict=True)))


def propagated(spec: ModelSpec, embeddings: Tensor) -> Tensor:
    """The outputs of a model, by a dense adjacency matrix."""
    if spec.name != "lightgcn":
        return embeddings
    counts = torch.zeros(N_ROWS, N_ROWS, dtype=torch.float64)
    for first, second in EDGES:
        counts[first, second] += 1
        counts[second, first] += 1
    scale = counts.sum(dim=1).clamp(min=1).rsqrt()
    adjacency = scale[:, None] * counts * scale
    layers = [embeddings]
    for _ in range(spec.layers):
        layers.append(adjacency @ layers[-1])
    return torch.stack(layers).mean(dim=0)


def reference_score(spec: ModelSpec, outputs: Tensor, dense: dict[str, Tensor], rows: list[int]) -> Tensor:
    """The score of one example without negatives, written out."""
    if spec.name in ("mf", "lightgcn"):
        return outputs[rows[0]] @ outputs[rows[1]]
    if spec.name == "neumf":
        user, item = outputs[rows[0]], outputs[rows[1]]
        hidden = torch.cat([user[DIM:], item[DIM:]])
        for layer in range(len(spec.hidden)):
            linear = dense[f"weight{layer}"].T @ hidden + dense[f"bias{layer}"]
            hidden = linear / (1 + torch.exp(-linear))
        return dense["output"] @ torch.cat([user[:DIM] * item[:DIM], hidden]) + dense["bias"]
    total = dense["bias"] + sum(outputs[row, -1] for row in rows)
    for place, row in enumerate(rows):
        for other in rows[place + 1 :]:
            total = total + outputs[row, :-1] @ outputs[other, :-1]
    return total


def reference_loss(spec: ModelSpec, score: Tensor, label: Tensor) -> Tensor:
    if spec.loss == "squared":
        return (score - label) ** 2 / 2
    q = torch.sigmoid(score)
    return -label * torch.log(q) - (1 - label) * torch.log(1 - q)


def reference_objective(spec: ModelSpec, at: Point, rows: Tensor, labels: Tensor, n_examples: int) -> Tensor:
    """The mean objective of some of n examples, one by one, on a dense graph."""
    outputs, total = propagated(spec, at.embeddings), torch.zeros((), dtype=torch.float64)
    for example, label in zip(rows.tolist(), labels, strict=True):
        score = reference_score(spec, outputs, at.dense, example[: spec.fields])
        if spec.loss == "bpr":
            other = [example[0], example[-1], *example[2 : spec.fields]]
            score = score - reference_score(spec, outputs, at.dense, other)
        total = total + reference_loss(spec, score, label)
        total = total + spec.l2 / 2 * sum(at.embeddings[row].square().sum() for row in example)
    decay = spec.l2_row * at.embeddings.square().sum()
    decay = decay + spec.l2_dense * sum(values.square().sum() for values in at.dense.values())
    return total / len(rows) + decay / 2 / n_examples


def reference_gradient(
    spec: ModelSpec, at: Point, rows: Tensor, labels: Tensor, n_examples: int
) -> tuple[float, list[Tensor]]:
    """The objective, and its gradient by each of the parameters."""
    leaves = Point(
        at.embeddings.clone().requires_grad_(),
        {name: values.clone().requires_grad_() for name, values in at.dense.items()},
    )
    value = reference_objective(spec, leaves, rows, labels, n_examples)
    return value.item(), list(torch.autograd.grad(value, leaves.all))
