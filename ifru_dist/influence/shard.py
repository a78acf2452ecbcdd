"""What one worker holds of a model: its rows, their embeddings and their edges; and selections of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan

_FEW = 16
"""Some of an array, one in so many at most, are searched for by themselves instead of by a pass over all."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The propagation graph at the own rows (n), as the training positives make it."""

    indptr: Tensor
    """(n + 1,) int64."""
    other: Tensor
    """(g,) int64: global row at the far end; every one is also a far end of an example of the row."""
    example: Tensor
    """(g,) int64: id of the positive example."""


@dataclass(frozen=True, kw_only=True)
class DenseLayout:
    """How the parameters that are no embedding rows lie in rows of the embeddings' width, after all others.

    As rows they take part in a solve like any other rows. The last worker owns them, in a partition of their own.
    """

    shapes: Mapping[str, tuple[int, ...]]
    """By name, in the order in which they lie."""
    first_row: int
    """Global row of the first one."""
    width: int

    @property
    def size(self) -> int:
        """Numbers in all."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def rows(self) -> int:
        """Rows that hold them, the last one filled up with zeros."""
        return -(-self.size // self.width)

    def filled(self, rows: Tensor) -> Tensor:
        """Columns (n,) that hold parameters in some of their global rows (n,); all but the last row are full."""
        return (self.size - (rows - self.first_row) * self.width).clamp(max=self.width)

    def pack(self, dense: Mapping[str, Tensor]) -> Tensor:
        """The parameters as rows (rows, width), float64."""
        return self.as_rows(torch.cat([dense[name].double().flatten() for name in self.shapes]))

    def as_rows(self, numbers: Tensor) -> Tensor:
        """Numbers (size,) in the order of the layout as rows (rows, width)."""
        filled = numbers.new_zeros(self.rows * self.width)
        filled[: self.size] = numbers
        return filled.view(self.rows, self.width)

    def unpack(self, values: Tensor) -> dict[str, Tensor]:
        """The parameters by name, from their rows (rows, width)."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = torch.split(values.flatten()[: self.size], sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class EdgeRun:
    """Edges of some rows (m), in CSR form: all that these have, or some. An edge is an example seen from one row."""

    indptr: Tensor
    """(m + 1,) int64."""
    others: Tensor
    """(e, a - 1) int64: global rows at the other places of the example, in their order."""
    label: Tensor
    """(e,) float64."""
    example: Tensor
    """(e,) int64: id of the example; several edges of a row share one where several negatives were drawn for it."""
    place: Tensor | None = None
    """(e,) int64: which place of the example the row itself has; None where the score does not ask."""
    weight: Tensor | None = None
    """(e,) float64: factor of the example's loss and regulariser; None: all 1."""

    def only(self, keep: Tensor) -> "EdgeRun":
        """The edges that a mask (e,) selects."""
        return EdgeRun(
            indptr=_pointers(row_counts(self.indptr, keep)),
            others=self.others[keep],
            label=self.label[keep],
            example=self.example[keep],
            place=None if self.place is None else self.place[keep],
            weight=None if self.weight is None else self.weight[keep],
        )

    def of(self, positions: Tensor) -> "EdgeRun":
        """The edges of the rows at some positions (k,), ascending, among these."""
        indptr, edges = edges_of(self.indptr, positions)
        return EdgeRun(
            indptr=indptr,
            others=self.others.index_select(0, edges),
            label=self.label[edges],
            example=self.example[edges],
            place=None if self.place is None else self.place[edges],
            weight=None if self.weight is None else self.weight[edges],
        )


class Edges(Protocol):
    """The edges of a worker's rows (n), wherever they are held."""

    degrees: Tensor
    """(n,) int64."""

    @property
    def mass(self) -> Tensor:
        """(n,) float64: edges of each row, counted with their weights."""

    def of(self, positions: Tensor, near: Tensor | None = None) -> EdgeRun:
        """The edges of the rows at some positions (m,), ascending; only those with a far end in ``near`` (N,) bool."""


class HeldEdges:
    """Edges in memory."""

    def __init__(self, run: EdgeRun) -> None:
        """Those of all rows."""
        self.run, self.degrees = run, torch.diff(run.indptr)

    @property
    def mass(self) -> Tensor:
        """See Edges."""
        return self.degrees.double() if self.run.weight is None else row_totals(self.run.indptr, self.run.weight)

    def of(self, positions: Tensor, near: Tensor | None = None) -> EdgeRun:
        """See Edges."""
        run = self.run.of(positions)
        return run if near is None else run.only(near[run.others].any(dim=1))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of one worker before an erasure, with all their examples.

    Shapes: n own rows, N rows of all workers, e edges, a rows of an example, d columns. Rows are ordered by partition,
    so each partition's rows are together.
    """

    rows: Tensor
    """(n,) int64: global rows."""
    partition: Tensor
    """(n,) int64, ascending: virtual partition of each row."""
    embeddings: Tensor
    """(n, d): the model before the batch, in the type of the tables."""
    edges: Edges
    graph: Graph | None = None
    """Of a graph model."""
    outputs: Tensor | None = None
    """(n, d) its propagated embeddings, where they are known already."""
    dense: DenseLayout | None = None
    """Of a model with parameters beside its rows; ``rows`` ends with those that this worker owns of them."""
    dense_mass: float = 0.0
    """What ``mass`` is for the dense parameters' rows: all examples."""

    @property
    def degrees(self) -> Tensor:
        """(n,) edges of each row before the erasure."""
        return self.edges.degrees

    @property
    def mass(self) -> Tensor:
        """(n,) examples of each row before the erasure, counted with their weights."""
        return self.edges.mass if self.dense is None else torch.where(self.is_dense, self.dense_mass, self.edges.mass)

    @property
    def is_dense(self) -> Tensor:
        """(n,) bool: rows that hold dense parameters."""
        return self.rows >= (self.dense.first_row if self.dense else torch.iinfo(torch.int64).max)

    def lost(self, erased: Tensor) -> Tensor:
        """(n,) edges of each row whose examples a mask over example ids marks. Reads all edges."""
        run = self.edges.of(torch.arange(len(self.rows), device=self.rows.device))
        return row_counts(run.indptr, erased[run.example])


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some of a worker's rows with some of their edges, and the exchange that brings the far ends.

    Shapes: m rows, e edges, a rows of an example, h distinct far ends.
    """

    positions: Tensor
    """(m,) positions of the rows in the shard, ascending."""
    partition: Tensor
    """(m,) ascending: virtual partition of each row."""
    indptr: Tensor
    """(m + 1,)."""
    cols: Tensor
    """(e, a - 1) positions of the far ends among the arriving rows (h)."""
    label: Tensor
    """(e,) float64."""
    place: Tensor | None
    """(e,) which place of the example the row has."""
    weight: Tensor | None
    """(e,) float64: factor of the example; None: all 1."""
    example: Tensor
    """(e,) id of the edge's example."""
    erased: Tensor
    """(e,) bool: whether the edge's example is to be erased."""
    plan: GatherPlan

    @property
    def col(self) -> Tensor:
        """(e,) position of the far end of a pair among the arriving rows (h)."""
        return self.cols[:, 0]

    @cached_property
    def factor(self) -> Tensor:
        """(e,) float64: factor of every example, whether it stays or goes."""
        return torch.ones_like(self.label) if self.weight is None else self.weight

    @cached_property
    def kept(self) -> Tensor:
        """(e,) float64: factor of an edge that stays, 0 for one that goes."""
        return self.factor * (~self.erased).to(torch.float64)

    @cached_property
    def gone(self) -> Tensor:
        """(e,) float64: factor of an edge that goes, 0 for one that stays."""
        return self.factor * self.erased.to(torch.float64)


def edges_of(indptr: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Row pointers (m + 1,) of the rows at some positions, and the indices (e,) of their edges."""
    starts, lengths = indptr[positions], torch.diff(indptr)[positions]
    pointers = _pointers(lengths)
    shift = torch.repeat_interleave(starts - pointers[:-1], lengths)
    return pointers, shift + torch.arange(len(shift), device=indptr.device)


def row_counts(indptr: Tensor, flag: Tensor) -> Tensor:
    """Number of flagged edges of each row: flag (e,) bool -> (m,) int64."""
    flagged = torch.nonzero(flag).flatten()
    if len(flagged) * _FEW < len(flag):  # running sums over all edges would cost more than to search for some
        rows = torch.searchsorted(indptr[1:].contiguous(), flagged, right=True)
        return torch.bincount(rows, minlength=len(indptr) - 1)
    running = _pointers(flag)
    return running[indptr[1:]] - running[indptr[:-1]]


def row_totals(indptr: Tensor, values: Tensor) -> Tensor:
    """Sum of values (e,) over the edges of each row, (m,); in stored order, whatever lies beside the row."""
    if len(indptr) == 1:  # which segment_reduce refuses
        return values.new_zeros(0)
    return torch.segment_reduce(values, "sum", lengths=torch.diff(indptr), initial=0.0)


def make_block(
    shard: Shard,
    erased: Tensor,
    positions: Tensor,
    communicator: Communicator,
    run: EdgeRun | None = None,
) -> Block:
    """The rows at some positions with all their edges, or only with some.

    Args:
        shard: This worker's rows.
        erased: bool over example ids: those that go.
        positions: (m,) ascending.
        communicator: All workers make this call together.
        run: The wanted edges of these rows; None: all.
    """
    run = shard.edges.of(positions) if run is None else run
    plan = communicator.plan(distinct(run.others.flatten(), len(communicator.ownership.rank)))
    return Block(
        positions=positions,
        partition=shard.partition[positions],
        indptr=run.indptr,
        cols=places_of(run.others, plan.rows, len(communicator.ownership.rank)),
        label=run.label,
        place=run.place,
        weight=run.weight,
        example=run.example,
        erased=erased[run.example],
        plan=plan,
    )


def only_edges(block: Block, keep: Tensor) -> Block:
    """The same rows and exchange with only the edges that a mask (e,) selects."""
    return replace(
        block,
        indptr=only(block.indptr, keep),
        cols=block.cols[keep],
        label=block.label[keep],
        place=None if block.place is None else block.place[keep],
        weight=None if block.weight is None else block.weight[keep],
        example=block.example[keep],
        erased=block.erased[keep],
    )


def only(indptr: Tensor, keep: Tensor) -> Tensor:
    """The row pointers (m + 1,) of the edges that a mask (e,) selects."""
    return _pointers(row_counts(indptr, keep))


def distinct(rows: Tensor, size: int) -> Tensor:
    """The distinct ones of global rows (k,) < size, ascending."""
    if len(rows) * _FEW < size:
        return torch.unique(rows)
    named = torch.zeros(size, dtype=torch.bool, device=rows.device)
    named[rows] = True
    return torch.nonzero(named).flatten()


def places_of(wanted: Tensor, rows: Tensor, size: int) -> Tensor:
    """Position of each wanted row (any shape), all of which are there, among distinct global ``rows`` < size."""
    if wanted.numel() * _FEW < size:
        order = torch.argsort(rows)
        return order[torch.searchsorted(rows[order], wanted)]
    return index_of(rows, size)[wanted]


def index_of(rows: Tensor, size: int) -> Tensor:
    """(size,) position of each value in distinct ``rows``, -1 where it is absent."""
    index = torch.full((size,), -1, dtype=torch.int64, device=rows.device)
    index[rows] = torch.arange(len(rows), device=rows.device)
    return index


def _pointers(counts: Tensor) -> Tensor:
    """(m + 1,) running sums of counts (m,), from 0."""
    pointers = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=pointers[1:])
    return pointers
