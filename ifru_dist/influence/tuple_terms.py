"""Any score of a tuple of rows: derivatives by torch.func, gather and scatter as for the closed forms.

With s the score of an example, G its derivative by one of its rows, w the factor and l the loss: that row gets
w l'(s) G, and of a product with v it gets w l''(s) G (sum over all moving rows of G . v). The whole Hessian adds
w l'(s) times the derivative of G along v.

Examples are computed in chunks that begin where a virtual partition begins: a dense layer rounds differently in batches
of other sizes, so the same chunks are what makes the same bits for any number of workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ifru_dist.influence.exchange import MovingExchange
from ifru_dist.influence.forward import derivative_along
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.shard import Block, row_totals
from ifru_dist.influence.terms import TermsAt, WholeTerms, counted, moved_halo
from ifru_dist.models.base import Dense, Model
from ifru_dist.models.losses import Loss

CHUNK_EDGES = 1 << 13
CACHED_NUMBERS = 1 << 26
"""Numbers of a block's derivatives that are kept at a place, 512 MiB; where they are more they are computed whenever
they are asked for."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive edges of one partition, and the rows that they are at."""

    edges: slice
    rows: slice
    lengths: Tensor
    """Edges of each row in the chunk."""


def chunks_of(block: Block) -> list[Chunk]:
    """The edges of a block, partition by partition, in chunks of at most CHUNK_EDGES."""
    chunks = list[Chunk]()
    starts = _boundaries(block)
    for start, stop in pairwise(starts):
        inside = block.indptr.clamp(start, stop)
        first = int(torch.searchsorted(block.indptr, start, right=True)) - 1
        last = int(torch.searchsorted(block.indptr, stop))
        chunks.append(Chunk(slice(start, stop), slice(first, last), torch.diff(inside[first : last + 1])))
    return chunks


def _boundaries(block: Block) -> list[int]:
    """Where chunks begin, and the end."""
    if len(block.label) == 0:
        return [0]
    changes = torch.nonzero(torch.diff(block.partition)).flatten() + 1
    starts = sorted({0, *block.indptr[changes].tolist(), len(block.label)})
    inner = [range(start, stop, CHUNK_EDGES) for start, stop in pairwise(starts)]
    return [*(place for part in inner for place in part), len(block.label)]


def tuple_index(block: Block, near: Tensor, far: Tensor) -> Tensor:
    """Indices (e, a) of all rows of each edge's example, in the example's order.

    Args:
        block: the edges; each knows its own place in the example.
        near: (e,) index of the edge's own row.
        far: (e, a - 1) indices of the other rows.
    """
    assert block.place is not None
    together = torch.cat([near[:, None], far], dim=1)
    slots = torch.arange(together.shape[1], device=far.device)
    place = block.place[:, None]
    return together.gather(1, torch.where(slots == place, 0, slots + (slots < place)))


class TupleTerms:
    """See ``ifru_dist.influence.terms.Terms``."""

    def __init__(self, block: Block, model: Model, loss: Loss) -> None:
        """The edges of a block, of tuples."""
        self.block, self.model, self.loss, self.chunks = block, model, loss, chunks_of(block)
        self.near = torch.repeat_interleave(
            torch.arange(len(block.positions), device=block.indptr.device), torch.diff(block.indptr)
        )
        self.index = tuple_index(block, self.near, len(block.positions) + block.cols)

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> "TupleTermsAt":
        """See Terms."""
        return TupleTermsAt(self, rows, halo, dense)

    def moved(
        self, start: WholeTerms, rows: Tensor, arriving: Tensor, moving: MovingExchange, dense: Dense
    ) -> "TupleTermsAt":
        """See Terms."""
        return self.at(rows, moved_halo(start, arriving, moving), dense)

    def row_sums(self, like: Tensor, values: Callable[[Chunk], Tensor]) -> Tensor:
        """Sums (m, d) of edge values (edges, d), chunk by chunk, over the edges of each row."""
        total = like.new_zeros(len(self.block.positions), like.shape[1])
        for chunk in self.chunks:
            total[chunk.rows] += torch.segment_reduce(values(chunk), "sum", lengths=chunk.lengths, initial=0.0)
        return total

    def own(self, values: Tensor, chunk: Chunk) -> Tensor:
        """What of values (edges, a, d) is at the edges' own places, (edges, d)."""
        assert self.block.place is not None
        place = self.block.place[chunk.edges]
        return values[torch.arange(len(place), device=place.device), place]


class TupleTermsAt:
    """Scores and errors of tuples at one place."""

    def __init__(self, terms: TupleTerms, rows: Tensor, halo: Tensor, dense: Dense) -> None:
        """With rows (m, d), far ends (h, d) and dense parameters."""
        self.terms, self.rows, self.halo, self.dense = terms, rows, halo, dense
        self._values = torch.cat([rows, halo])
        fits = terms.index.numel() * rows.shape[1] <= CACHED_NUMBERS
        self._jacobians: dict[int, Tensor] | None = {} if fits else None
        with torch.no_grad():
            parts = [self._score(self.gathered(chunk)) for chunk in terms.chunks]
        self.score = torch.cat(parts) if parts else rows.new_zeros(0)
        self.error = terms.loss.error(self.score, terms.block.label)

    def gathered(self, chunk: Chunk) -> Tensor:
        """The rows of a chunk's examples, (edges, a, d)."""
        return self._values[self.terms.index[chunk.edges]]

    def jacobian(self, chunk: Chunk) -> Tensor:
        """Derivatives of a chunk's scores by all their rows, (edges, a, d); kept where they are few enough."""
        if self._jacobians is None:
            return self._jacobian(chunk)
        if chunk.edges.start not in self._jacobians:
            self._jacobians[chunk.edges.start] = self._jacobian(chunk)
        return self._jacobians[chunk.edges.start]

    def turned(self, chunk: Chunk, change: Tensor, dense: Dense | None) -> Tensor:
        """Derivatives of ``jacobian`` along a change of the rows (edges, a, d) and of the dense parameters."""
        jacobian = torch.func.grad(lambda rows, dense: self.terms.model.score(rows, dense).sum())
        rows, held = self.gathered(chunk), dict(self.dense)
        if dense is None:
            return derivative_along(lambda rows: jacobian(rows, held), (rows,), (change,))
        return derivative_along(jacobian, (rows, held), (change, dict(dense)))

    def score_change(self, chunk: Chunk, dense: Dense) -> Tensor:
        """Derivatives of a chunk's scores along a change of the dense parameters, (edges,)."""
        rows = self.gathered(chunk)
        held, change = dict(self.dense), dict(dense)
        return derivative_along(lambda own: self.terms.model.score(rows, own), (held,), (change,))

    def loss(self) -> Tensor:
        """Loss of each edge's example, (e,)."""
        return self.terms.loss.value(self.score, self.terms.block.label)

    def gradient(self) -> Tensor:
        """Sum of factor * error * G."""
        return self._summed(self.terms.block.factor)

    def gone_gradient(self) -> Tensor:
        """The same sum over the examples that go."""
        return self._summed(self.terms.block.gone)

    def squares(self) -> Tensor:
        """Sum of factor * (error * G)^2."""
        factor = self.error.square() * self.terms.block.factor

        def given(chunk: Chunk) -> Tensor:
            return factor[chunk.edges, None] * self.terms.own(self.jacobian(chunk), chunk).square()

        return self.terms.row_sums(self.rows, given)

    def less(self, after: TermsAt) -> Tensor:
        """Differences of error * G."""
        assert isinstance(after, TupleTermsAt)
        factor, kept = self.terms.block.factor, self.terms.block.kept
        return self.terms.row_sums(self.rows, lambda chunk: self._given(chunk, factor) - after._given(chunk, kept))

    def loss_change(self, start: WholeTerms, moving: MovingExchange) -> Tensor:
        """See TermsAt."""
        change = (self.loss() - start.loss()) * counted(self.terms.block, moving)
        return row_totals(self.terms.block.indptr, change)[:, None]

    def curvature(self, kind: CurvatureKind, dtype: torch.dtype) -> "TupleCurvature":
        """Second derivatives; products read float64 whatever ``dtype`` says."""
        return TupleCurvature(self, kind)

    def _summed(self, weight: Tensor) -> Tensor:
        """Sum of weight (e,) * error * G, (m, d)."""
        return self.terms.row_sums(self.rows, lambda chunk: self._given(chunk, weight))

    def _given(self, chunk: Chunk, weight: Tensor) -> Tensor:
        """What a chunk's examples give to their edges' own rows, (edges, d)."""
        factor = (self.error * weight)[chunk.edges, None]
        return factor * self.terms.own(self.jacobian(chunk), chunk)

    def _jacobian(self, chunk: Chunk) -> Tensor:
        """``jacobian``, computed."""
        return torch.func.grad(lambda rows: self._score(rows).sum())(self.gathered(chunk))

    def _score(self, rows: Tensor) -> Tensor:
        """Scores of gathered rows (edges, a, d)."""
        return self.terms.model.score(rows, self.dense)


class TupleCurvature:
    """The Gauss-Newton matrix or the Hessian of weighted losses of tuples."""

    def __init__(self, at: TupleTermsAt, kind: CurvatureKind) -> None:
        """At one place."""
        self._at, terms = at, at.terms
        self._weight = terms.loss.curvature(at.score, terms.block.label) * terms.block.kept
        self._error = at.error * terms.block.kept if kind == "hessian" else None
        self._index: tuple[Tensor, Tensor] | None = None
        self.diagonal = terms.row_sums(at.rows, self._squares)

    def blocks(self, chosen: Tensor) -> None:
        """None: the diagonal serves."""

    def product(
        self,
        vector: Tensor,
        arriving: Tensor,
        moving: Tensor,
        dense: Dense | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """See TermsCurvature."""
        index = self._moving_index(moving)
        values = torch.cat([vector, arriving.to(vector.dtype), vector.new_zeros(1, vector.shape[1])])
        image = self._at.terms.row_sums(vector, lambda chunk: self._given(chunk, values[index[chunk.edges]], dense))
        return image if shift is None else image.addcmul_(shift, vector)

    def _given(self, chunk: Chunk, change: Tensor, dense: Dense | None) -> Tensor:
        """What a change of a chunk's rows (edges, a, d) gives to its edges' own rows, (edges, d)."""
        jacobian, own = self._at.jacobian(chunk), self._at.terms.own
        scores = (jacobian * change).sum((1, 2))
        if dense is not None:
            scores = scores + self._at.score_change(chunk, dense)
        given = (self._weight[chunk.edges] * scores)[:, None] * own(jacobian, chunk)
        if self._error is not None:
            turned = self._at.turned(chunk, change, dense)
            given = given + self._error[chunk.edges, None] * own(turned, chunk)
        return given

    def _squares(self, chunk: Chunk) -> Tensor:
        """Squared derivatives of a chunk's scores by the edges' own rows, weighted, (edges, d)."""
        own = self._at.terms.own(self._at.jacobian(chunk), chunk)
        return self._weight[chunk.edges, None] * own.square()

    def _moving_index(self, moving: Tensor) -> Tensor:
        """Indices (e, a) of the rows' changes among those of the own rows, the far ends that move, and a zero row."""
        if self._index is None or self._index[0] is not moving:
            terms = self._at.terms
            self._index = moving, moving_index(terms.block, terms.near, moving, len(terms.block.positions))
        return self._index[1]


def moving_index(block: Block, near: Tensor, moving: Tensor, rows: int) -> Tensor:
    """Indices (e, a) into changes of ``rows`` own rows, then those of far ends that move, then one row of zeros.

    Args:
        block: the edges.
        near: (e,) index of each edge's own row, -1 where it does not move.
        moving: (e, a - 1) index of each far end among those that move, -1 where it does not.
        rows: own rows.
    """
    return tuple_index(block, near, torch.where(moving < 0, -1, rows + moving))  # -1 is the row of zeros
