"""Closed forms of a dot-product model that is trained to score an item above a negative one: z = u . (i - j).

The derivatives are those that ``TupleTerms`` would find with torch.func, without its cost.
"""

import torch
from torch import Tensor

from ifru_dist.influence import kernels_pairwise as kernels
from ifru_dist.influence.exchange import MovingExchange
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.shard import Block, row_totals
from ifru_dist.influence.terms import TermsAt, WholeTerms, counted, moved_halo
from ifru_dist.influence.tuple_terms import moving_index, tuple_index
from ifru_dist.models.base import Dense
from ifru_dist.models.losses import Loss


class PairwiseTerms:
    """See ``ifru_dist.influence.terms.Terms``; on a CPU."""

    def __init__(self, block: Block, loss: Loss) -> None:
        """The edges of a block, of triples."""
        assert block.place is not None
        self.block, self.loss = block, loss
        self.near = torch.repeat_interleave(torch.arange(len(block.positions)), torch.diff(block.indptr))
        self.triples = tuple_index(block, self.near, len(block.positions) + block.cols).numpy()
        self.place, self.indptr = block.place.numpy(), block.indptr.numpy()

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> "PairwiseTermsAt":
        """See Terms; there are no dense parameters."""
        return PairwiseTermsAt(self, rows, halo)

    def moved(
        self, start: WholeTerms, rows: Tensor, arriving: Tensor, moving: MovingExchange, dense: Dense
    ) -> "PairwiseTermsAt":
        """See Terms."""
        return self.at(rows, moved_halo(start, arriving, moving), dense)


class PairwiseTermsAt:
    """Scores and errors of triples at one place."""

    def __init__(self, terms: PairwiseTerms, rows: Tensor, halo: Tensor) -> None:
        """With rows (m, d) and far ends (h, d)."""
        self.terms, self.rows, self.halo = terms, rows, halo
        self.values = torch.cat([rows, halo]).numpy()
        self.score = rows.new_empty(len(terms.triples))
        kernels.scores(terms.triples, self.values, self.score.numpy())
        self.error = terms.loss.error(self.score, terms.block.label)

    def loss(self) -> Tensor:
        """Loss of each edge's triple, (e,)."""
        return self.terms.loss.value(self.score, self.terms.block.label)

    def gradient(self) -> Tensor:
        """Sum of factor * error * derivative of the score."""
        return self._summed(kernels.own_sum, self.error * self.terms.block.factor)

    def gone_gradient(self) -> Tensor:
        """The same sum over the triples that go."""
        return self._summed(kernels.own_sum, self.error * self.terms.block.gone)

    def squares(self) -> Tensor:
        """Sum of factor * (error * derivative)^2."""
        return self._summed(kernels.own_squares, self.error.square() * self.terms.block.factor)

    def loss_change(self, start: WholeTerms, moving: MovingExchange) -> Tensor:
        """See TermsAt."""
        change = (self.loss() - start.loss()) * counted(self.terms.block, moving)
        return row_totals(self.terms.block.indptr, change)[:, None]

    def less(self, after: TermsAt) -> Tensor:
        """Differences of error * derivative."""
        assert isinstance(after, PairwiseTermsAt)
        terms, result = self.terms, torch.zeros_like(self.rows)
        factor, kept = terms.block.factor, terms.block.kept
        sides = ((self.error * factor).numpy(), self.values, (after.error * kept).numpy(), after.values)
        kernels.own_difference(terms.indptr, terms.triples, terms.place, *sides, result.numpy())
        return result

    def curvature(self, kind: CurvatureKind, dtype: torch.dtype) -> "PairwiseCurvature":
        """Second derivatives; products read float64 whatever ``dtype`` says."""
        return PairwiseCurvature(self, kind)

    def _summed(self, kernel: object, factor: Tensor) -> Tensor:
        """What a kernel sums with a factor (e,), (m, d)."""
        terms, result = self.terms, torch.zeros_like(self.rows)
        assert callable(kernel)
        kernel(terms.indptr, terms.triples, terms.place, factor.numpy(), self.values, result.numpy())
        return result


class PairwiseCurvature:
    """The Gauss-Newton matrix or the Hessian of weighted losses of triples."""

    def __init__(self, at: PairwiseTermsAt, kind: CurvatureKind) -> None:
        """At one place."""
        self._at, terms = at, at.terms
        self._weight = terms.loss.curvature(at.score, terms.block.label) * terms.block.kept
        self._error = at.error * terms.block.kept if kind == "hessian" else None
        self._index: tuple[Tensor, Tensor] | None = None
        self.diagonal = torch.zeros_like(at.rows)
        edges = (terms.indptr, terms.triples, terms.place)
        kernels.own_squares(*edges, self._weight.numpy(), at.values, self.diagonal.numpy())

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
        at, terms = self._at, self._at.terms
        changes = torch.cat([vector, arriving.to(vector.dtype), vector.new_zeros(1, vector.shape[1])])
        if self._index is None or self._index[0] is not moving:
            place = moving_index(terms.block, terms.near, moving, len(vector))
            self._index = moving, torch.where(place < 0, len(changes) - 1, place)
        index, image, numbers = self._index[1].numpy(), torch.zeros_like(vector), changes.numpy()
        edges, weight = (terms.indptr, terms.triples, terms.place), self._weight.numpy()
        kernels.gauss_newton(*edges, weight, at.values, index, numbers, image.numpy())
        if self._error is not None:
            kernels.own_sum(terms.indptr, index, terms.place, self._error.numpy(), numbers, image.numpy())
        return image if shift is None else image.addcmul_(shift, vector)
