"""The wall between the solver and the two kinds of models: the residual r, its curvature, the loss, the certificate.

The tilted objective of one batch, its residual and its Newton steps are those of docs/method.md.
Shapes: n own rows of a worker, m selected ones, d dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from ifru_dist.influence.place import Place

CurvatureKind = Literal["gauss-newton", "hessian"]
"""The positive semi-definite part of the second derivative, or all of it."""


class Curvature(Protocol):
    """The second derivative of the kept examples' objective on the selected rows, without Lambda."""

    diagonal: Tensor
    """(m, d): the diagonal of its Gauss-Newton part or an approximation of it, not negative."""

    def blocks(self, chosen: Tensor) -> Tensor | None:
        """The d x d blocks of its Gauss-Newton part at the chosen rows (b,), (b, d, d); None where a model has none."""

    def product(self, vector: Tensor, damping: Tensor | None = None) -> Tensor:
        """The matrix, with a diagonal (m, 1) added if one is given, times a vector on the selected rows (m, d).

        The caller may change the result.
        """


@dataclass(frozen=True)
class RowValues:
    """Values on some of the own rows."""

    positions: Tensor
    """(k,) positions in the shard, ascending."""
    values: Tensor
    """(k, d)."""


@dataclass(frozen=True)
class Outside:
    """What is left of the influence on own rows that are not selected."""

    positions: Tensor
    """(k,) positions in the shard, ascending."""
    residual: Tensor
    """(k, d)."""
    diagonal: Callable[[], Tensor]
    """(k, d): an estimate of the Gauss-Newton diagonal, not negative; it only ranks the rows, and is computed
    where that is asked for, by all workers together."""


class Point(Protocol):
    """The kept examples at some embeddings."""

    place: Place

    @property
    def outputs(self) -> Tensor | None:
        """(n, d) the embeddings propagated over the graph that is left; None for a model without one."""

    def residual(self) -> Tensor:
        """The influence still there on the selected rows, r (m, d)."""

    def curvature(self, kind: CurvatureKind, *, exact: bool = False) -> Curvature:
        """Second derivative on the selected rows; ``exact``: also where products are pruned."""

    def loss_change(self) -> RowValues:
        """By how much the kept examples' losses have changed since before the batch: shares (k, 1) of the own rows."""


class Objective(Protocol):
    """One batch on one worker. All workers make the same calls together."""

    positions: Tensor
    """(m,) positions of the selected rows in the shard."""
    ridge: Tensor
    """(m, 1) factor of the kept examples' regulariser on the selected rows."""
    dtype: torch.dtype
    """Of the vectors of a linear solve; residuals are float64, so what a solve leaves the next step corrects."""
    prunes: bool
    """Whether curvature products leave something out."""
    edges_per_product: int
    """Edges, of examples and of the graph, that a curvature product reads on this worker."""
    edges_per_residual: int
    """Edges that a residual at a new point reads on this worker."""

    def at(self, place: Place) -> Point:
        """The kept examples at a place of the selected rows."""

    def start_gradient(self) -> Tensor:
        """Gradient of all examples' objective before the batch on the selected rows, (m, d): the tilt."""

    def start_squares(self, *, everywhere: bool = True) -> Tensor:
        """Sum of squared gradients of the examples before the batch, as a mean over columns: (n,) on all own rows.

        Unless ``everywhere``, rows that are not selected may have 0.
        """

    def start_residual(self) -> RowValues:
        """The residual at the model before the batch, on every row where it is not zero."""

    def outside(self, point: Point) -> Outside:
        """The residual at a point on every row that is not selected and where it can differ from zero."""

    def selecting(self, selected: Tensor) -> Self:
        """The same batch with other selected rows, (n,) bool."""
