"""The losses of a block's examples as functions of the rows that they read: closed forms, or torch.func for any score.

An edge is an example seen from one of its rows. What an example gives to a row is formed at the row's own edge, so a
sum over a row's edges is always formed by one worker, in stored order.

Shapes: m rows of the block, e edges, a rows of an example, h rows at the far ends ("halo"), d columns. ``weight`` (e,)
is a factor of each edge; 0 leaves an example out.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ifru_dist.influence.exchange import MovingExchange
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.shard import Block, only
from ifru_dist.models.base import Dense, Model
from ifru_dist.models.losses import Loss


class TermsCurvature(Protocol):
    """The second derivative of weighted losses by the rows of a block, without regularisers."""

    diagonal: Tensor
    """(m, d), of the Gauss-Newton part; not negative. The caller may change it."""

    def blocks(self, chosen: Tensor) -> Tensor | None:
        """The d x d blocks of the Gauss-Newton part at the chosen rows (b,), (b, d, d); None where there are none."""

    def product(self, vector: Tensor, arriving: Tensor, moving: Tensor, dense: Dense | None = None) -> Tensor:
        """The matrix times a vector, (m, d).

        Args:
            vector: (m, d) on the rows.
            arriving: (k, d) on the far ends that move.
            moving: (e, a - 1) index of each far end in ``arriving``, -1 where it does not move.
            dense: the vector on the dense parameters; None where these do not move.
        """


class TermsAt(Protocol):
    """The examples of a block at one place."""

    rows: Tensor
    """(m, d)."""

    @property
    def halo(self) -> Tensor:
        """(h, d)."""

    def loss(self) -> Tensor:
        """Loss of each edge's example, (e,)."""

    def gradient(self, weight: Tensor, among: Tensor | None = None) -> Tensor:
        """Gradient of the weighted losses by the rows, (m, d); only of the edges that a mask (e,) selects."""

    def squares(self, weight: Tensor) -> Tensor:
        """Weighted sum of the squared gradients of the losses by the rows, (m, d)."""

    def less(self, weight: Tensor, after: "TermsAt", weight_after: Tensor) -> Tensor:
        """This gradient less that at another place, every difference formed per edge, (m, d)."""

    def curvature(self, weight: Tensor, kind: CurvatureKind, dtype: torch.dtype) -> TermsCurvature:
        """Second derivative; ``dtype`` is the type of what products read at the far ends."""


class Terms(Protocol):
    """The examples of a block."""

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> TermsAt:
        """With their rows (m, d) and far ends (h, d) at some place, and the dense parameters there."""

    def moved(self, start: TermsAt, rows: Tensor, arriving: Tensor, moving: MovingExchange, dense: Dense) -> TermsAt:
        """At another place: rows (m, d), and far ends as they were but for those (k, d) that an exchange brings."""


def moved_halo(start: TermsAt, arriving: Tensor, moving: MovingExchange) -> Tensor:
    """The far ends (h, d) of ``start`` with those (k, d) in their places that arrive."""
    halo = start.halo.clone()
    halo[moving.halo] = arriving
    return halo


def make_terms(block: Block, model: Model, loss: Loss, kernels: Kernels) -> Terms:
    """The terms of a block: closed forms where its score is made of dot products."""
    if model.dot_product:
        return DotTerms(block, loss, kernels)
    # Imported here: a worker with other closed forms, or a GPU, has no use for them.
    if model.sampled_negatives and model.scorer.dot_product and block.label.device.type == "cpu":
        from ifru_dist.influence.pairwise_terms import PairwiseTerms

        return PairwiseTerms(block, loss)
    from ifru_dist.influence.tuple_terms import TupleTerms

    return TupleTerms(block, model, loss)


class DotTerms:
    """Dot products of pairs: s = a . b; the row a gets error * b, and curvature * (b . v_a + a . v_b) * b.

    Another place is known by its differences from the start: with float32 far ends they keep their own precision,
    however small they are beside the embeddings.
    """

    def __init__(self, block: Block, loss: Loss, kernels: Kernels) -> None:
        """The edges of a block, all of pairs."""
        self.block, self.loss, self.kernels = block, loss, kernels
        self.edges = block.indptr, block.col.to(torch.int32)
        self._narrow: tuple[Tensor, Tensor] | None = None

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> "DotTermsAt":
        """See Terms; there are no dense parameters. Edges are computed in the type of ``halo``."""
        return DotTermsAt(self, rows, halo, self.kernels.scores(*self.edges, rows, halo))

    def moved(
        self, start: TermsAt, rows: Tensor, arriving: Tensor, moving: MovingExchange, dense: Dense
    ) -> "DotTermsAt":
        """See Terms."""
        assert isinstance(start, DotTermsAt)
        shift = _Shift(start, arriving - start.far_ends(moving), moving)
        index, change = self.narrow(moving.index), rows - start.rows
        score = self.kernels.score_changes(*self.edges, index, rows, start.halo, change, shift.far_change)
        return DotTermsAt(self, rows, start.halo, score.add_(start.score), shift)

    def narrow(self, index: Tensor) -> Tensor:
        """An index of the far ends that move (e, 1) as (e,) int32; that of the last one asked for is kept."""
        if self._narrow is None or self._narrow[0] is not index:
            self._narrow = index, index[:, 0].to(torch.int32)
        return self._narrow[1]


@dataclass(frozen=True)
class _Shift:
    """Where the far ends have gone since the start."""

    start: "DotTermsAt"
    far_change: Tensor
    """(k, d) of those that move."""
    moving: MovingExchange


class DotTermsAt:
    """Scores and errors of pairs at one place."""

    def __init__(
        self, terms: DotTerms, rows: Tensor, start: Tensor, score: Tensor, shift: _Shift | None = None
    ) -> None:
        """With rows (m, d), far ends at the start (h, d) and scores (e,)."""
        self.terms, self.rows, self.score = terms, rows, score
        self._start, self._shift = start, shift
        self._far: tuple[MovingExchange, Tensor] | None = None
        self.error = terms.loss.error(score, terms.block.label)

    @cached_property
    def halo(self) -> Tensor:
        """(h, d)."""
        if self._shift is None:
            return self._start
        places, halo = self._shift.moving.halo, self._start.clone()
        far = self._shift.start.far_ends(self._shift.moving)
        halo[places] = (far + self._shift.far_change).to(halo.dtype)
        return halo

    def far_ends(self, moving: MovingExchange) -> Tensor:
        """The far ends that move, (k, d) float64; those of the last exchange asked for are kept."""
        if self._far is None or self._far[0] is not moving:
            self._far = moving, self.halo[moving.halo].double()
        return self._far[1]

    def loss(self) -> Tensor:
        """Loss of each edge's pair, (e,)."""
        return self.terms.loss.value(self.score, self.terms.block.label)

    def gradient(self, weight: Tensor, among: Tensor | None = None) -> Tensor:
        """Sum of weight * error * b."""
        error, (indptr, col) = self.error * weight, self.terms.edges
        if among is not None:
            indptr, col, error = only(indptr, among), col[among], error[among]
        return self.terms.kernels.weighted_sum(indptr, col, error, self.halo)

    def squares(self, weight: Tensor) -> Tensor:
        """Sum of weight * (error * b)^2."""
        return self.terms.kernels.weighted_squares(*self.terms.edges, self.error.square() * weight, self.halo)

    def less(self, weight: Tensor, after: TermsAt, weight_after: Tensor) -> Tensor:
        """Differences of error * b."""
        assert isinstance(after, DotTermsAt)
        terms, before, now, shift = self.terms, self.error * weight, after.error * weight_after, after._shift
        if shift is None or shift.start is not self:
            return terms.kernels.weighted_difference(*terms.edges, before, self.halo, now, after.halo)
        index = terms.narrow(shift.moving.index)
        return terms.kernels.shifted_sum(*terms.edges, index, before - now, -now, self.halo, shift.far_change)

    def curvature(self, weight: Tensor, kind: CurvatureKind, dtype: torch.dtype) -> "DotCurvature":
        """Second derivative by the scores, and the errors where the whole Hessian is wanted."""
        return DotCurvature(self, weight, kind, dtype)


class DotCurvature:
    """The Gauss-Newton matrix or the Hessian of weighted losses of pairs."""

    def __init__(self, at: DotTermsAt, weight: Tensor, kind: CurvatureKind, dtype: torch.dtype) -> None:
        """At one place."""
        self._terms = terms = at.terms
        self._weight = terms.loss.curvature(at.score, terms.block.label) * weight
        self._error = at.error * weight if kind == "hessian" else None
        self._halo, self._rows = at.halo.to(dtype), at.rows.to(dtype)
        self.diagonal = terms.kernels.weighted_squares(*terms.edges, self._weight, self._halo)

    def blocks(self, chosen: Tensor) -> Tensor:
        """Weighted sums of b b^T."""
        return self._terms.kernels.row_blocks(*self._terms.edges, self._weight, self._halo, chosen)

    def product(self, vector: Tensor, arriving: Tensor, moving: Tensor, dense: Dense | None = None) -> Tensor:
        """See TermsCurvature; ``arriving`` may be of the type that products read."""
        terms, index = self._terms, self._terms.narrow(moving)
        places = (*terms.edges, index, self._weight)
        image = terms.kernels.gauss_newton(*places, self._rows, self._halo, vector, arriving)
        if self._error is not None:
            image.add_(terms.kernels.moving_sum(terms.edges[0], index, self._error, arriving))
        return image
