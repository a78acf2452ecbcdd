"""Scores of the shipped models written once more, for one example and with loops, and a small problem for each."""

import torch
from torch import Tensor

from ifru_dist.models.base import Model, dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.losses import Loss
from ifru_dist.models.spec import ModelSpec
from tests.contract.reference import Score, TupleCase


def dot(rows: Tensor, dense: dict[str, Tensor]) -> Tensor:
    return torch.dot(rows[0], rows[1])


def with_biases(rows: Tensor, dense: dict[str, Tensor]) -> Tensor:
    return torch.dot(rows[0][:-1], rows[1][:-1]) + rows[0][-1] + rows[1][-1] + dense["bias"]


def tower(rows: Tensor, dense: dict[str, Tensor]) -> Tensor:
    dim = rows.shape[1] // 2
    hidden = torch.cat([rows[0][dim:], rows[1][dim:]])
    layer = 0
    while f"weight{layer}" in dense:
        hidden = dense[f"weight{layer}"].T @ hidden + dense[f"bias{layer}"]
        hidden = hidden / (1 + torch.exp(-hidden))
        layer += 1
    return torch.dot(torch.cat([rows[0][:dim] * rows[1][:dim], hidden]), dense["output"]) + dense["bias"]


def machine(rows: Tensor, dense: dict[str, Tensor]) -> Tensor:
    total = dense["bias"] + rows[:, -1].sum()
    for first in range(len(rows)):
        for second in range(first + 1, len(rows)):
            total = total + torch.dot(rows[first][:-1], rows[second][:-1])
    return total


def pairwise(score: Score) -> Score:
    """The score of an example less that with the last row in the item's place."""

    def difference(rows: Tensor, dense: dict[str, Tensor]) -> Tensor:
        negative = torch.stack([rows[0], rows[-1], *rows[2:-1]])
        return score(rows[:-1], dense) - score(negative, dense)

    return difference


def case_of(spec: ModelSpec, score: Score, *, sizes: tuple[int, ...], examples: int, seed: int) -> TupleCase:
    """A random problem: a user with many items, one who loses everything, rows without examples, repeated negatives."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model(spec)
    offsets = [sum(sizes[:table]) for table in range(len(sizes))]
    columns = [torch.randint(0, size - 1, (examples,), generator=generator) for size in sizes]
    columns[0][: examples // 4] = 0
    rows = torch.stack([column + offset for column, offset in zip(columns, offsets, strict=True)], dim=1)
    erased = torch.rand(examples, generator=generator) < 0.15
    erased |= rows[:, 0] == rows[-1, 0] if int(rows[-1, 0]) != 0 else rows[:, 0] == 1
    label = torch.randint(0, 2, (examples,), generator=generator).double()
    graph, ids = rows[label > 0.5][:, :2], torch.arange(examples)[label > 0.5]
    tuples, example, weight = rows, torch.arange(examples), torch.ones(examples, dtype=torch.float64)
    if model.sampled_negatives:
        draws = model.sampled_negatives
        example, tuples = ids.repeat_interleave(draws), rows[label > 0.5].repeat_interleave(draws, dim=0)
        negative = torch.randint(0, sizes[1], (len(tuples), 1), generator=generator) + offsets[1]
        tuples = torch.cat([tuples, negative], dim=1)
        label, weight = torch.ones(len(tuples), dtype=torch.float64), torch.full((len(tuples),), 1.0 / draws).double()
    dense = {name: part.double() for name, part in dense_parameters(model, seed).items()}
    noise = {
        name: 0.1 * torch.randn(part.shape, generator=generator, dtype=torch.float64) for name, part in dense.items()
    }
    return TupleCase(
        score=pairwise(score) if model.sampled_negatives else score,
        loss="squared" if spec.loss == "squared" else "bce",
        sizes=sizes,
        tuples=tuples,
        label=label,
        weight=weight,
        example=example,
        erased=erased[example],
        embeddings=0.5 * torch.randn(sum(sizes), model.width, generator=generator, dtype=torch.float64),
        graph=graph,
        graph_example=ids,
        dense={name: part + noise[name] for name, part in dense.items()},
        layer_weights=model.layer_weights,
        l2=spec.l2,
        l2_row=spec.l2_row,
        l2_dense=spec.l2_dense,
    )


class OpenForm(Model):
    """Another model whose closed forms are hidden."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.spec)
        self._model, self._weights = model, model.layer_weights

    @property
    def loss(self) -> Loss:
        return self._model.loss

    @property
    def arity(self) -> int:
        return self._model.arity

    @property
    def layer_weights(self) -> tuple[float, ...]:
        return self._weights

    def score(self, rows: Tensor, dense: dict[str, Tensor]) -> Tensor:
        return self._model.score(rows, dense)
