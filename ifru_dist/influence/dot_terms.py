"""Closed forms of models whose score is the dot product of a pair's rows."""

from functools import cached_property

import torch
from torch import Tensor

from ifru_dist.influence.exchange import MovingExchange
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.pairs import PairEdges
from ifru_dist.influence.shard import Block
from ifru_dist.influence.terms import TermsAt, WholeTerms
from ifru_dist.models.base import Dense
from ifru_dist.models.losses import Loss


class DotTerms:
    """Dot products of pairs: s = a . b; the row a gets error * b, and curvature * (b . v_a + a . v_b) * b.

    Another place is known by its differences from the start: with float32 far ends they keep their own precision,
    however small they are beside the embeddings.
    """

    def __init__(self, block: Block, loss: Loss, kernels: Kernels) -> None:
        """The edges of a block, all of pairs."""
        self.kernels = kernels
        self.edges = PairEdges(
            indptr=block.indptr,
            col=block.col.to(torch.int32),
            label=block.label,
            factor=block.factor,
            erased=block.erased,
            loss=loss,
        )
        self._narrow: tuple[Tensor, Tensor] | None = None

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> "DotTermsAt":
        """See Terms; there are no dense parameters. Edges are computed in the type of ``halo``."""
        return DotTermsAt(self, rows, halo)

    def moved(
        self, start: WholeTerms, rows: Tensor, arriving: Tensor, moving: MovingExchange, dense: Dense
    ) -> "MovedDotTerms":
        """See Terms."""
        assert isinstance(start, DotTermsAt)
        return MovedDotTerms(start, rows, arriving, moving)

    def narrow(self, index: Tensor) -> Tensor:
        """An index of the far ends that move (e, 1) as (e,) int32; that of the last one asked for is kept."""
        if self._narrow is None or self._narrow[0] is not index:
            self._narrow = index, index[:, 0].to(torch.int32)
        return self._narrow[1]


class DotTermsAt:
    """Pairs at one place that is given whole."""

    def __init__(self, terms: DotTerms, rows: Tensor, halo: Tensor) -> None:
        """With rows (m, d) and far ends (h, d)."""
        self.terms, self.rows, self.halo = terms, rows, halo
        self.values = terms.kernels.pairs(terms.edges, rows, halo)
        self.error, self.weight, self.diagonal = self.values.error, self.values.weight, self.values.diagonal
        self._far: tuple[MovingExchange, Tensor] | None = None

    def far_ends(self, moving: MovingExchange) -> Tensor:
        """The far ends that move, (k, d) float64; those of the last exchange asked for are kept."""
        if self._far is None or self._far[0] is not moving:
            self._far = moving, self.halo.index_select(0, moving.halo).double()
        return self._far[1]

    def loss(self) -> Tensor:
        """Loss of each edge's pair, (e,)."""
        return self.values.value

    def gradient(self) -> Tensor:
        """Sum of factor * error * b."""
        return self.values.kept + self.values.gone

    def gone_gradient(self) -> Tensor:
        """The same sum over the pairs that go."""
        return self.values.gone

    def squares(self) -> Tensor:
        """Sum of factor * (error * b)^2."""
        edges = self.terms.edges
        return self.terms.kernels.weighted_squares(
            edges.indptr, edges.col, self.error.square() * edges.factor, self.halo
        )

    def less(self, after: TermsAt) -> Tensor:
        """Differences of error * b."""
        assert isinstance(after, MovedDotTerms)
        assert after.start is self
        return after.values.less

    def loss_change(self, start: WholeTerms, moving: MovingExchange) -> Tensor:
        """Nothing: this is where the pairs start."""
        assert start is self
        return self.rows.new_zeros(len(self.rows), 1)

    def curvature(self, kind: CurvatureKind, dtype: torch.dtype) -> "DotCurvature":
        """Second derivative by the scores, and the errors where the whole Hessian is wanted."""
        return DotCurvature(self, kind, dtype)


class MovedDotTerms:
    """Pairs at another place, known by how far their ends are from the start."""

    def __init__(self, start: DotTermsAt, rows: Tensor, arriving: Tensor, moving: MovingExchange) -> None:
        """With rows (m, d) and the far ends that move (k, d)."""
        self.terms, self.start, self.rows, self.moving = start.terms, start, rows, moving
        self._far_change = arriving - start.far_ends(moving)
        index, change = self.terms.narrow(moving.index), rows - start.rows
        self.values = self.terms.kernels.moved_pairs(
            self.terms.edges, index, start.values, rows, start.halo, change, self._far_change
        )
        self.error, self.weight, self.diagonal = self.values.error, self.values.weight, self.values.diagonal

    @cached_property
    def halo(self) -> Tensor:
        """(h, d)."""
        halo, places = self.start.halo.clone(), self.moving.halo
        halo[places] = (self.start.far_ends(self.moving) + self._far_change).to(halo.dtype)
        return halo

    def loss_change(self, start: WholeTerms, moving: MovingExchange) -> Tensor:
        """As it was found on the way."""
        assert start is self.start
        assert moving is self.moving
        return self.values.loss_change

    def curvature(self, kind: CurvatureKind, dtype: torch.dtype) -> "DotCurvature":
        """Second derivative by the scores, and the errors where the whole Hessian is wanted."""
        return DotCurvature(self, kind, dtype)


class DotCurvature:
    """The Gauss-Newton matrix or the Hessian of weighted losses of pairs."""

    def __init__(self, at: DotTermsAt | MovedDotTerms, kind: CurvatureKind, dtype: torch.dtype) -> None:
        """At one place."""
        self._terms, self._weight, self.diagonal = at.terms, at.weight, at.diagonal
        edges = at.terms.edges
        self._error = at.error * edges.factor * ~edges.erased if kind == "hessian" else None
        self._halo, self._rows = at.halo.to(dtype), at.rows.to(dtype)
        self._still = self._rows.new_zeros(len(self._rows), 1)

    def blocks(self, chosen: Tensor) -> Tensor:
        """Weighted sums of b b^T."""
        edges = self._terms.edges
        return self._terms.kernels.row_blocks(edges.indptr, edges.col, self._weight, self._halo, chosen)

    def product(
        self,
        vector: Tensor,
        arriving: Tensor,
        moving: Tensor,
        dense: Dense | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """See TermsCurvature; ``arriving`` may be of the type that products read."""
        terms, index = self._terms, self._terms.narrow(moving)
        places = (terms.edges.indptr, terms.edges.col, index, self._weight)
        still = self._still if shift is None else shift
        image = terms.kernels.gauss_newton(*places, self._rows, self._halo, vector, arriving, still)
        if self._error is not None:
            image.add_(terms.kernels.moving_sum(terms.edges.indptr, index, self._error, arriving))
        return image
