"""Propagation over the graph of the training positives, row by row on the workers that own the rows.

Shapes: n own rows, g graph edges, h rows at the far ends, d columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.shard import Graph, distinct, edges_of, index_of, row_counts


@dataclass(frozen=True)
class Links:
    """Graph edges at some rows (m), and the exchange that brings their far ends."""

    indptr: Tensor
    """(m + 1,)."""
    col: Tensor
    """(g,) position of the far end among the arriving rows (h)."""
    plan: GatherPlan


def links_of(graph: Graph, plan: GatherPlan, n_rows: int) -> Links:
    """All edges of the own rows, with an exchange that brings every far end; ``n_rows`` is N."""
    return Links(graph.indptr, index_of(plan.rows, n_rows)[graph.other], plan)


class ShardedPropagation:
    """sum_k w_k A^k of row values (m, d), with A symmetrically normalised over the edges that a mask leaves."""

    def __init__(
        self,
        links: Links,
        coefficient: Tensor,
        weights: tuple[float, ...],
        communicator: Communicator,
        kernels: Kernels,
    ) -> None:
        """Propagate over some edges.

        Args:
            links: the edges (g) at all the rows that hold values.
            coefficient: (g,) entries of A.
            weights: w_0 .. w_K.
            communicator: exchanges with the other workers.
            kernels: edge loops.
        """
        self.links, self.coefficient, self.weights = links, coefficient, weights
        self._communicator, self._kernels = communicator, kernels

    def apply(self, values: Tensor) -> Tensor:
        """P values, (m, d); P is symmetric."""
        total, layer = self.weights[0] * values, values
        for weight in self.weights[1:]:
            layer = self.layer(self.arriving(layer))
            total.add_(weight * layer)
        return total

    def arriving(self, values: Tensor) -> Tensor:
        """Far ends' values (h, d)."""
        return self._communicator.gather_rows(self.links.plan, values)

    def layer(self, arriving: Tensor) -> Tensor:
        """A values, (m, d), from the far ends' values (h, d)."""
        return self._kernels.weighted_sum(self.links.indptr, self.links.col, self.coefficient, arriving)

    def squared_layer(self, values: Tensor) -> Tensor:
        """The matrix of A's squared entries times values (m, d)."""
        links, arriving = self.links, self.arriving(values)
        return self._kernels.weighted_sum(links.indptr, links.col, self.coefficient.square(), arriving)

    def inside(self, positions: Tensor, members: Tensor) -> "ShardedPropagation":
        """Walks that stay among some rows: the degrees are those of the whole graph.

        Args:
            positions: (b,) of the own rows among them.
            members: (N,) bool over global rows: those of all workers.
        """
        links, edges = links_inside(self.links, positions, members, self._communicator, self.coefficient != 0)
        return ShardedPropagation(links, self.coefficient[edges], self.weights, self._communicator, self._kernels)


def links_inside(
    links: Links, positions: Tensor, members: Tensor, communicator: Communicator, present: Tensor | None = None
) -> tuple[Links, Tensor]:
    """The edges among some rows, with an exchange of these rows' values.

    Args:
        links: the edges (g) at all own rows (n).
        positions: (b,) of the own rows among them.
        members: (N,) bool over global rows: those of all workers.
        communicator: all workers make this call together.
        present: (g,) bool: edges that may be read; None: all.

    Returns:
        The links of these rows, and which of the given edges they are, (k,).
    """
    indptr, edges = edges_of(links.indptr, positions)
    far = links.plan.rows[links.col[edges]]
    kept = members[far] if present is None else members[far] & present[edges]
    counts = row_counts(indptr, kept)
    inside = torch.zeros(len(positions) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=inside[1:])
    far = far[kept]
    plan = communicator.plan(distinct(far, len(members)))
    among = index_of(positions, len(links.indptr) - 1)
    plan = GatherPlan(plan.rows, among[plan.send], plan.send_counts, plan.receive_counts)
    return Links(inside, index_of(plan.rows, len(members))[far], plan), edges[kept]


def normalised(links: Links, present: Tensor | None, communicator: Communicator) -> Tensor:
    """Entries 1 / sqrt(deg deg) of A (g,) over the edges that are present (g,) bool, 0 at the others; None: all are."""
    lengths = torch.diff(links.indptr)
    degree = (lengths if present is None else row_counts(links.indptr, present)).double()
    scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)
    far = communicator.gather_rows(links.plan, scale[:, None])[:, 0]
    entries = torch.repeat_interleave(scale, lengths).mul_(far.index_select(0, links.col))
    return entries if present is None else entries.mul_(present)


def spread_diagonal(propagation: ShardedPropagation, diagonal: Tensor) -> Tensor:
    """From a diagonal by outputs (m, d) to an approximate one by embeddings: no terms between layers."""
    layer, total = diagonal, propagation.weights[0] ** 2 * diagonal
    for share in propagation.weights[1:]:
        layer = propagation.squared_layer(layer)
        total = total + share**2 * layer
    return total
