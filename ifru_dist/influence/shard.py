"""What one worker holds of a model: its rows, their embeddings and their edges; and selections of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of one worker before an erasure, with all their examples.

    Shapes: n own rows, e edges, d dimensions. Rows are ordered by partition, so each partition's rows are together.
    """

    rows: Tensor
    """(n,) int64: global rows."""
    partition: Tensor
    """(n,) int64, ascending: virtual partition of each row."""
    embeddings: Tensor
    """(n, d) float64: the model before the batch."""
    indptr: Tensor
    """(n + 1,) int64."""
    other: Tensor
    """(e,) int64: global row at the far end."""
    label: Tensor
    """(e,) float64."""
    example: Tensor
    """(e,) int64: id of the example."""

    @property
    def degrees(self) -> Tensor:
        """(n,) examples of each row before the erasure."""
        return torch.diff(self.indptr)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some of a worker's rows with some of their edges, and the exchange that brings the far ends.

    Shapes: m rows, e edges, h distinct far ends.
    """

    positions: Tensor
    """(m,) positions of the rows in the shard, ascending."""
    indptr: Tensor
    """(m + 1,)."""
    col: Tensor
    """(e,) position of the far end among the arriving rows (h)."""
    label: Tensor
    """(e,) float64."""
    erased: Tensor
    """(e,) bool: whether the edge's example is to be erased."""
    plan: GatherPlan

    @property
    def kept(self) -> Tensor:
        """(e,) float64: 1 for an edge that stays, 0 for one that goes."""
        return (~self.erased).to(torch.float64)


def edges_of(indptr: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Row pointers (m + 1,) of the rows at some positions, and the indices (e,) of their edges."""
    starts, lengths = indptr[positions], torch.diff(indptr)[positions]
    pointers = _pointers(lengths)
    shift = torch.repeat_interleave(starts - pointers[:-1], lengths)
    return pointers, shift + torch.arange(len(shift), device=indptr.device)


def row_counts(indptr: Tensor, flag: Tensor) -> Tensor:
    """Number of flagged edges of each row: flag (e,) bool -> (m,) int64."""
    running = _pointers(flag)
    return running[indptr[1:]] - running[indptr[:-1]]


def make_block(
    shard: Shard, erased: Tensor, positions: Tensor, communicator: Communicator, far_ends: Tensor | None = None
) -> Block:
    """The rows at some positions with all their edges, or only those to some far ends.

    Args:
        shard: This worker's rows.
        erased: (e,) bool over the shard's edges.
        positions: (m,) ascending.
        communicator: All workers make this call together.
        far_ends: (N,) bool over global rows; None: all.
    """
    indptr, edges = edges_of(shard.indptr, positions)
    if far_ends is not None:
        wanted = far_ends[shard.other[edges]]
        indptr, edges = _pointers(row_counts(indptr, wanted)), edges[wanted]
    far = shard.other[edges]
    needed = torch.zeros(len(communicator.ownership.rank), dtype=torch.bool, device=far.device)
    needed[far] = True
    plan = communicator.plan(torch.nonzero(needed).flatten())
    return Block(
        positions=positions,
        indptr=indptr,
        col=index_of(plan.rows, len(needed))[far],
        label=shard.label[edges],
        erased=erased[edges],
        plan=plan,
    )


def only_edges(block: Block, keep: Tensor) -> Block:
    """The same rows and exchange with only the edges that a mask (e,) selects."""
    pointers = _pointers(row_counts(block.indptr, keep))
    return replace(block, indptr=pointers, col=block.col[keep], label=block.label[keep], erased=block.erased[keep])


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
