"""What a solved batch gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ifru_dist.influence.options import Status


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of rows did. The figures are those of all workers together."""

    rows: int
    """Rows that could move."""
    edges: int
    """Edges at them."""
    edges_per_product: int
    """Edges, of examples and of the graph, that each product read."""
    edges_per_residual: int
    """Edges that each residual read."""
    iterations: list[int]
    """Products of each Newton step."""
    residual_outside: float | None
    """||r|| on the rows that could not move, over ||r before||; None where nobody asked."""
    kept: bool
    """False for a last round that left more than the one before: its steps were taken back."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A worker's share of a solved batch. The figures are those of all workers together."""

    rows: Tensor
    """(m,) global rows that moved."""
    values: Tensor
    """(m, d) their new embeddings."""
    emptied: Tensor
    """(k,) global rows that lost all their examples."""
    dense: Mapping[str, Tensor]
    """The dense parameters after the batch; empty where they did not move, or another worker owns them."""
    rounds: list[Round]
    newton_steps: int
    """Steps from the embeddings before to those after; not those that were rejected or taken back."""
    stationarity: float
    """||g0|| / ||r before|| on the first round's rows: how unfinished training was, beside what is to be removed."""
    relative_residual: float
    """Of the last linear solve, by its recurrence."""
    status: Status
    objective_change: float
    """F(E after) - F(E before) of the tilted objective, as the embeddings are stored; not positive."""
    influence_residual: float
    """rho = ||r after|| / ||r before||, from true gradients."""
    product_error: float | None = None
    """Where products were pruned: ||exact - pruned|| / ||exact|| of the curvature's product with the whole update."""
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_sent: int = 0

    @property
    def iterations(self) -> list[int]:
        """Products of each Newton step of all rounds."""
        return [count for entry in self.rounds for count in entry.iterations]
