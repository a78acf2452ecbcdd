"""What a worker holds of a version: its rows, and the examples that the model was trained on as seen from them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.influence.communicator import Ownership
from ifru_dist.influence.shard import DenseLayout, EdgeRun, Edges, Graph, HeldEdges, Shard
from ifru_dist.models.base import Model
from ifru_dist.models.negatives import Negatives
from ifru_dist.sharding.placement import ownership_of
from ifru_dist.workspace.incidence import MappedIncidence
from ifru_dist.workspace.version import Version


def dense_layout(version: Version, model: Model) -> DenseLayout | None:
    """Where the dense parameters lie among the workers' rows; None for a model that has none."""
    shapes = {name: values.shape for name, values in version.dense().items()}
    return DenseLayout(shapes=shapes, first_row=version.layout.n_rows, width=model.width) if shapes else None


class MappedEdges:
    """The edges of a worker's rows in the files of the graph; see ``ifru_dist.influence.shard.Edges``."""

    def __init__(
        self, mapped: MappedIncidence, version: Version, device: torch.device, *, places: bool, further: int = 0
    ) -> None:
        """Those of the examples that the version's model was trained on.

        Args:
            mapped: the edges of a version.
            version: the version.
            device: where the rows asked for are brought to.
            places: whether the score asks which place of an example a row has: its table.
            further: rows behind the others that have no edges.
        """
        bound = version.trained_bound
        self._mapped, self._device = mapped, device
        self._bound = None if bound == version.manifest.n_examples else bound
        self._tables = version.layout.table_of(mapped.rows) if places else None
        degrees = np.concatenate([mapped.counts(self._bound), np.zeros(further, np.int64)])
        self.degrees = torch.from_numpy(degrees).to(device)

    @property
    def mass(self) -> Tensor:
        """See Edges."""
        return self.degrees.double()

    def recount(self, positions: Tensor) -> None:
        """Take notice of the edges that the rows at some positions (k,) have now."""
        counts = self._mapped.counts(self._bound, positions.cpu().numpy())
        self.degrees[positions] = torch.from_numpy(counts).to(self._device)

    def of(self, positions: Tensor, near: Tensor | None = None) -> EdgeRun:
        """See Edges."""
        wanted = positions.cpu().numpy()
        stored = wanted[wanted < len(self._mapped.rows)]
        run = self._mapped.of(stored, self._bound, None if near is None else near.cpu().numpy())
        indptr = np.concatenate([run.indptr, np.full(len(wanted) - len(stored), run.indptr[-1])])
        arrays = {"indptr": indptr, "others": run.others, "label": run.label, "example": run.example}
        if self._tables is not None:
            arrays["place"] = np.repeat(self._tables[stored], run.degrees)
        return EdgeRun(**{name: torch.from_numpy(part).to(self._device) for name, part in arrays.items()})


def load_shard(
    version: Version,
    incidence: MappedIncidence,
    embeddings: Tensor,
    model: Model,
    device: torch.device,
    *,
    holds_dense: bool,
) -> Shard:
    """The rows of a worker's partitions with what is left of the examples that the model was trained on.

    Args:
        version: the version.
        incidence: its examples at these rows, also those that were appended after the training.
        embeddings: (n, d) of these rows, as stored.
        model: the version's model.
        device: where the rows and their edges are worked with.
        holds_dense: whether this worker owns the dense parameters.
    """
    layout = dense_layout(version, model)
    dense = None if layout is None else _DenseRows(layout, version, model, holds_dense)
    rows, partition = torch.from_numpy(incidence.rows), torch.from_numpy(version.layout.partition_of(incidence.rows))
    if dense is not None and holds_dense:
        rows, partition = torch.cat([rows, dense.rows]), torch.cat([partition, dense.partition])
        embeddings = torch.cat([embeddings, dense.values.to(embeddings.dtype)])
    further = len(rows) - len(incidence.rows)
    return Shard(
        rows=rows.to(device),
        partition=partition.to(device),
        embeddings=embeddings.to(device),
        edges=_edges(version, incidence, model, device, further),
        graph=_graph(incidence, version.trained_bound, device) if len(model.layer_weights) > 1 else None,
        dense=layout,
        dense_mass=0.0 if dense is None else dense.mass,
    )


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


def _edges(version: Version, incidence: MappedIncidence, model: Model, device: torch.device, further: int) -> Edges:
    """The examples as they are; where training drew negatives, the positives with these, in memory."""
    if model.sampled_negatives:
        return _pairwise_edges(version, incidence.rows, model, device, further)
    return MappedEdges(incidence, version, device, places=not model.dot_product, further=further)


def _pairwise_edges(
    version: Version, rows: NDArray[np.int64], model: Model, device: torch.device, further: int
) -> HeldEdges:
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
    counts = np.bincount(near[number, place], minlength=len(rows) + further)
    arrays = {
        "indptr": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        "others": drawn.rows[number][kept].reshape(len(number), drawn.rows.shape[1] - 1),
        "label": np.ones(len(number)),
        "example": drawn.examples[number],
        "weight": drawn.weights[number].astype(np.float64),
    }
    if not model.dot_product:
        arrays["place"] = place
    return HeldEdges(EdgeRun(**{name: torch.from_numpy(part).to(device) for name, part in arrays.items()}))


def _graph(incidence: MappedIncidence, bound: int, device: torch.device) -> Graph:
    """The positive pairs at the rows."""
    whole = incidence.whole(bound)
    positive = whole.keep_edges(whole.label > 0.5)
    return Graph(
        indptr=torch.from_numpy(positive.indptr).to(device),
        other=torch.from_numpy(np.ascontiguousarray(positive.others[:, 0])).to(device),
        example=torch.from_numpy(positive.example).to(device),
    )


class _DenseRows:
    """The dense parameters as rows behind all others, on the worker that holds them; no edge is at them."""

    def __init__(self, layout: DenseLayout, version: Version, model: Model, held: bool) -> None:
        labels = version.trained().labels
        self.mass = float((labels > 0.5).sum() if model.sampled_negatives else len(labels))
        if held:
            self.values = layout.pack({name: torch.from_numpy(part) for name, part in version.dense().items()})
            self.rows = torch.arange(layout.first_row, layout.first_row + len(self.values))
            self.partition = torch.full((len(self.values),), version.layout.partitions)
