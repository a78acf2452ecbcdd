"""The losses of a block's examples as functions of the rows that they read: closed forms, or torch.func for any score.

An edge is an example seen from one of its rows. What an example gives to a row is formed at the row's own edge, so a
sum over a row's edges is always formed by one worker, in stored order.

Shapes: m rows of the block, e edges, a rows of an example, h rows at the far ends ("halo"), d columns. ``weight`` (e,)
is a factor of each edge; 0 leaves an example out.
"""

from typing import Protocol

import torch
from torch import Tensor

from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.shard import Block, only_edges
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
    halo: Tensor
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
    """Dot products of pairs: s = a . b; the row a gets error * b, and curvature * (b . v_a + a . v_b) * b."""

    def __init__(self, block: Block, loss: Loss, kernels: Kernels) -> None:
        """The edges of a block, all of pairs."""
        self.block, self.loss, self.kernels = block, loss, kernels

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> "DotTermsAt":
        """See Terms; there are no dense parameters."""
        return DotTermsAt(self, rows, halo)


class DotTermsAt:
    """Scores and errors of pairs at one place."""

    def __init__(self, terms: DotTerms, rows: Tensor, halo: Tensor) -> None:
        """With rows (m, d) and far ends (h, d)."""
        self.terms, self.rows, self.halo = terms, rows, halo
        block = terms.block
        self.score = terms.kernels.scores(block.indptr, block.col, rows, halo)
        self.error = terms.loss.error(self.score, block.label)

    def loss(self) -> Tensor:
        """Loss of each edge's pair, (e,)."""
        return self.terms.loss.value(self.score, self.terms.block.label)

    def gradient(self, weight: Tensor, among: Tensor | None = None) -> Tensor:
        """Sum of weight * error * b."""
        block, error = self.terms.block, self.error * weight
        if among is not None:
            block, error = only_edges(block, among), error[among]
        return self.terms.kernels.weighted_sum(block.indptr, block.col, error, self.halo)

    def squares(self, weight: Tensor) -> Tensor:
        """Sum of weight * (error * b)^2."""
        block, kernels = self.terms.block, self.terms.kernels
        return kernels.weighted_sum(block.indptr, block.col, self.error.square() * weight, self.halo.square())

    def less(self, weight: Tensor, after: TermsAt, weight_after: Tensor) -> Tensor:
        """Differences of error * b."""
        assert isinstance(after, DotTermsAt)
        block, kernels = self.terms.block, self.terms.kernels
        return kernels.weighted_difference(
            block.indptr, block.col, self.error * weight, self.halo, after.error * weight_after, after.halo
        )

    def curvature(self, weight: Tensor, kind: CurvatureKind, dtype: torch.dtype) -> "DotCurvature":
        """Second derivative by the scores, and the errors where the whole Hessian is wanted."""
        return DotCurvature(self, weight, kind, dtype)


class DotCurvature:
    """The Gauss-Newton matrix or the Hessian of weighted losses of pairs."""

    def __init__(self, at: DotTermsAt, weight: Tensor, kind: CurvatureKind, dtype: torch.dtype) -> None:
        """At one place."""
        self._at, terms = at, at.terms
        self._weight = terms.loss.curvature(at.score, terms.block.label) * weight
        self._error = at.error * weight if kind == "hessian" else None
        self._halo = at.halo.to(dtype)
        block = terms.block
        self.diagonal = terms.kernels.weighted_sum(block.indptr, block.col, self._weight, at.halo.square())

    def blocks(self, chosen: Tensor) -> Tensor:
        """Weighted sums of b b^T."""
        block = self._at.terms.block
        return self._at.terms.kernels.row_blocks(block.indptr, block.col, self._weight, self._at.halo, chosen)

    def product(self, vector: Tensor, arriving: Tensor, moving: Tensor, dense: Dense | None = None) -> Tensor:
        """See TermsCurvature; ``arriving`` may be of the type that products read."""
        block, kernels, index = self._at.terms.block, self._at.terms.kernels, moving[:, 0]
        image = kernels.gauss_newton(
            block.indptr, block.col, index, self._weight, self._at.rows, self._halo, vector, arriving
        )
        if self._error is not None:
            image.add_(kernels.moving_sum(block.indptr, index, self._error, arriving))
        return image
