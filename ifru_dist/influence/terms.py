"""The losses of a block's examples as functions of the rows that they read: closed forms, or torch.func for any score.

An edge is an example seen from one of its rows. What an example gives to a row is formed at the row's own edge, so a
sum over a row's edges is always formed by one worker, in stored order.

Shapes: m rows of the block, e edges, a rows of an example, h rows at the far ends ("halo"), d columns.
"""

from typing import Protocol

import torch
from torch import Tensor

from ifru_dist.influence.exchange import MovingExchange
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.shard import Block
from ifru_dist.models.base import Dense


class TermsCurvature(Protocol):
    """The second derivative of weighted losses by the rows of a block, without regularisers."""

    diagonal: Tensor
    """(m, d), of the Gauss-Newton part; not negative."""

    def blocks(self, chosen: Tensor) -> Tensor | None:
        """The d x d blocks of the Gauss-Newton part at the chosen rows (b,), (b, d, d); None where there are none."""

    def product(
        self,
        vector: Tensor,
        arriving: Tensor,
        moving: Tensor,
        dense: Dense | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """The matrix times a vector, (m, d).

        Args:
            vector: (m, d) on the rows.
            arriving: (k, d) on the far ends that move.
            moving: (e, a - 1) index of each far end in ``arriving``, -1 where it does not move.
            dense: the vector on the dense parameters; None where these do not move.
            shift: (m, 1) times the vector is added; None: nothing.
        """


class TermsAt(Protocol):
    """The examples of a block at one place."""

    rows: Tensor
    """(m, d)."""

    @property
    def halo(self) -> Tensor:
        """(h, d)."""

    def loss_change(self, start: "WholeTerms", moving: MovingExchange) -> Tensor:
        """By how much the losses that stay have changed since the start, (m, 1): equal shares at the rows that move."""

    def curvature(self, kind: CurvatureKind, dtype: torch.dtype) -> TermsCurvature:
        """Second derivative of the losses that stay; ``dtype`` is the type of what products read at the far ends."""


class WholeTerms(TermsAt, Protocol):
    """The examples of a block at a place that is not known by its distance from another one."""

    def loss(self) -> Tensor:
        """Loss of each edge's example, (e,)."""

    def gradient(self) -> Tensor:
        """Gradient of the losses of all examples by the rows, (m, d)."""

    def gone_gradient(self) -> Tensor:
        """Gradient of the losses of those that go, (m, d)."""

    def squares(self) -> Tensor:
        """Sum of the squared gradients of all examples' losses by the rows, (m, d)."""

    def less(self, after: TermsAt) -> Tensor:
        """This gradient of all less that of those that stay at another place, differences formed per edge, (m, d)."""


class Terms(Protocol):
    """The examples of a block."""

    def at(self, rows: Tensor, halo: Tensor, dense: Dense) -> WholeTerms:
        """With their rows (m, d) and far ends (h, d) at some place, and the dense parameters there."""

    def moved(self, start: WholeTerms, rows: Tensor, arriving: Tensor, moving: MovingExchange, dense: Dense) -> TermsAt:
        """At another place: rows (m, d), and far ends as they were but for those (k, d) that an exchange brings."""


def moved_halo(start: WholeTerms, arriving: Tensor, moving: MovingExchange) -> Tensor:
    """The far ends (h, d) of ``start`` with those (k, d) in their places that arrive."""
    halo = start.halo.clone()
    halo[moving.halo] = arriving
    return halo


def counted(block: Block, moving: MovingExchange) -> Tensor:
    """(e,) share of an example that stays which counts at an edge: it has as many edges as rows that move."""
    return block.kept / (1 + (moving.index >= 0).sum(dim=1))
