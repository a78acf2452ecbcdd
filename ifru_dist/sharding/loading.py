"""What a worker holds of a version: its rows, and the examples that the model was trained on as seen from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.influence.communicator import Ownership
from ifru_dist.influence.shard import DenseLayout, Graph, Shard
from ifru_dist.models.base import Model
from ifru_dist.models.negatives import Negatives
from ifru_dist.sharding.placement import ownership_of
from ifru_dist.workspace.graph import Incidence
from ifru_dist.workspace.version import Version


def dense_layout(version: Version, model: Model) -> DenseLayout | None:
    """Where the dense parameters lie among the workers' rows; None for a model that has none."""
    shapes = {name: values.shape for name, values in version.dense().items()}
    return DenseLayout(shapes=shapes, first_row=version.layout.n_rows, width=model.width) if shapes else None


def load_shard(version: Version, incidence: Incidence, embeddings: Tensor, model: Model, *, holds_dense: bool) -> Shard:
    """The rows of a worker's partitions with what is left of the examples that the model was trained on, on the CPU.

    Args:
        version: the version.
        incidence: its examples at these rows, also those that were appended after the training.
        embeddings: (n, d) of these rows, as stored.
        model: the version's model.
        holds_dense: whether this worker owns the dense parameters.
    """
    if version.trained_bound < version.manifest.n_examples:
        incidence = incidence.keep_edges(incidence.example < version.trained_bound)
    edges = _pairwise_edges(version, incidence.rows, model) if model.sampled_negatives else _edges(version, incidence)
    shard = Shard(
        rows=torch.from_numpy(incidence.rows),
        partition=torch.from_numpy(version.layout.partition_of(incidence.rows)),
        embeddings=embeddings,
        indptr=torch.from_numpy(edges.indptr),
        others=torch.from_numpy(edges.others),
        label=torch.from_numpy(edges.label).double(),
        example=torch.from_numpy(edges.example),
        place=None if model.dot_product else torch.from_numpy(edges.place),
        weight=None if edges.weight is None else torch.from_numpy(edges.weight),
        graph=_graph(incidence) if len(model.layer_weights) > 1 else None,
        dense=dense_layout(version, model),
    )
    return shard if shard.dense is None else _with_dense(shard, shard.dense, version, model, holds_dense)


def on_device(shard: Shard, device: torch.device) -> Shard:
    """The same shard with its tensors on a device."""
    if device.type == "cpu":
        return shard
    moved: dict[str, Any] = {name: value.to(device) for name, value in vars(shard).items() if isinstance(value, Tensor)}
    graph = shard.graph and Graph(**{name: value.to(device) for name, value in vars(shard.graph).items()})
    return replace(shard, **moved, graph=graph)


def worker_ownership(version: Version, model: Model, owned: Sequence[Sequence[int]], device: torch.device) -> Ownership:
    """Owner and position of every row; the last worker holds the dense parameters after its other rows."""
    rows, dense = ownership_of(version.layout, owned, device), dense_layout(version, model)
    if dense is None:
        return rows
    last = len(owned) - 1
    first = int((rows.rank == last).sum())
    rank = torch.full((dense.rows,), last, device=device)
    position = torch.arange(first, first + dense.rows, device=device)
    return Ownership(torch.cat([rows.rank, rank]), torch.cat([rows.position, position]))


@dataclass(frozen=True)
class _Edges:
    """Examples seen from some rows, in CSR form."""

    indptr: NDArray[np.int64]
    others: NDArray[np.int64]
    """(e, a - 1)."""
    label: NDArray[np.float32]
    example: NDArray[np.int64]
    place: NDArray[np.int64]
    weight: NDArray[np.float64] | None


def _edges(version: Version, incidence: Incidence) -> _Edges:
    """The examples as they are; a row's place in them is its table."""
    place = np.repeat(version.layout.table_of(incidence.rows), incidence.degrees)
    return _Edges(incidence.indptr, incidence.others, incidence.label, incidence.example, place, None)


def _pairwise_edges(version: Version, rows: NDArray[np.int64], model: Model) -> _Edges:
    """Positives with the negatives of the objective: every worker draws all of them and keeps those at its rows."""
    trained = version.trained()
    trained = trained.take(trained.labels > 0.5)
    positives, ids = trained.rows, trained.ids
    assert ids is not None
    negatives = Negatives(positives[:, :2], version.trained_items, version.model.seed, version.forgotten_rows())
    drawn = negatives.tuples(positives, ids, range(model.sampled_negatives))
    position = np.full(version.layout.n_rows, -1, dtype=np.int64)
    position[rows] = np.arange(len(rows))
    near = position[drawn.rows]
    number, place = np.nonzero(near >= 0)
    order = np.argsort(near[number, place], kind="stable")  # then by tuple, then by place
    number, place = number[order], place[order]
    kept = np.arange(drawn.rows.shape[1])[None] != place[:, None]
    counts = np.bincount(near[number, place], minlength=len(rows))
    return _Edges(
        indptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        others=drawn.rows[number][kept].reshape(len(number), drawn.rows.shape[1] - 1),
        label=np.ones(len(number), np.float32),
        example=drawn.examples[number],
        place=place,
        weight=drawn.weights[number].astype(np.float64),
    )


def _graph(incidence: Incidence) -> Graph:
    """The positive pairs at the rows."""
    positive = incidence.keep_edges(incidence.label > 0.5)
    return Graph(
        indptr=torch.from_numpy(positive.indptr),
        other=torch.from_numpy(np.ascontiguousarray(positive.others[:, 0])),
        example=torch.from_numpy(positive.example),
    )


def _with_dense(shard: Shard, layout: DenseLayout, version: Version, model: Model, holds_dense: bool) -> Shard:
    """The shard with the dense parameters' rows at its end, if this worker holds them; no edge is at them."""
    labels = version.trained().labels
    examples = float((labels > 0.5).sum() if model.sampled_negatives else len(labels))
    if not holds_dense:
        return replace(shard, dense_mass=examples)
    values = layout.pack({name: torch.from_numpy(part) for name, part in version.dense().items()})
    count = len(values)
    return replace(
        shard,
        rows=torch.cat([shard.rows, torch.arange(layout.first_row, layout.first_row + count)]),
        partition=torch.cat([shard.partition, torch.full((count,), version.layout.partitions)]),
        embeddings=torch.cat([shard.embeddings, values.to(shard.embeddings.dtype)]),
        indptr=torch.cat([shard.indptr, shard.indptr[-1:].expand(count)]),
        dense_mass=examples,
    )
