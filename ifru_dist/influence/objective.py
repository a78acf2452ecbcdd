"""The wall between the Newton loop and the two kinds of models: the residual r, its curvature, and the certificate.

The tilted objective of one batch, its residual and its Newton steps are those of docs/method.md, section 2.
Shapes: n own rows of a worker, m selected ones, d dimensions.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Curvature(Protocol):
    """The Gauss-Newton matrix of the kept examples on the selected rows, without Lambda."""

    diagonal: Tensor
    """(m, d): its diagonal or an approximation of it, not negative."""

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector on the selected rows (m, d), as a tensor that the caller may change."""


@dataclass(frozen=True)
class RowValues:
    """Values on some of the own rows."""

    positions: Tensor
    """(k,) positions in the shard, ascending."""
    values: Tensor
    """(k, d)."""


class Objective(Protocol):
    """One batch on one worker. All workers make the same calls together."""

    positions: Tensor
    """(m,) positions of the selected rows in the shard."""

    def linearise(self, embeddings: Tensor) -> tuple[Tensor, Curvature]:
        """Residual (m, d) and curvature on the selected rows, at the own rows' embeddings (n, d).

        At the model before the batch pass that tensor itself: what is known of it is not computed again.
        """

    def start_residual(self) -> RowValues:
        """The residual at the model before the batch, on every row where it is not zero."""

    def end_residual(self, embeddings: Tensor) -> RowValues:
        """The residual at the updated embeddings (n, d), on every row where it can differ from zero."""
