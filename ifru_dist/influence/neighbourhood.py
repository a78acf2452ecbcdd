"""The graph before and after a batch, and the rows whose outputs the batch can change: all else stays as it was.

An output changes only where a walk of at most K edges leads to a row that moves or that loses an edge. What such a row
needs of the residual and of the products is found by walks that never leave these rows, so nothing is left out. The
two graphs' difference is formed edge by edge, from the entries of A that differ.

Shapes: n own rows, N rows of all workers, g graph edges, c own rows of the neighbourhood, d columns.
"""

import torch
from torch import Tensor

from ifru_dist.influence.exchange import moving_mask
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.propagation import ShardedPropagation, links_inside, links_of, normalised
from ifru_dist.influence.shard import distinct, edges_of


class GraphChange:
    """The whole graph before a batch and after it."""

    def __init__(self, problem: Problem) -> None:
        """Agree on the exchange of its far ends. All workers make this call together."""
        self._problem, shard, communicator = problem, problem.shard, problem.communicator
        assert shard.graph is not None
        self.edges = shard.graph
        size = len(communicator.ownership.rank)
        self._links = links_of(self.edges, communicator.plan(distinct(self.edges.other, size)), size)
        gone = problem.erased[self.edges.example]
        self.before, self.after = self._over(None), self._over(~gone)
        self.outputs = self.before.apply(shard.embeddings.double())
        """(n, d) float64: what the embeddings before the batch propagate to on the graph before."""

    def _over(self, present: Tensor | None) -> ShardedPropagation:
        """Propagation over the edges that a mask (g,) leaves; None: over all."""
        problem, communicator = self._problem, self._problem.communicator
        coefficient = normalised(self._links, present, communicator)
        return ShardedPropagation(self._links, coefficient, problem.model.layer_weights, communicator, problem.kernels)


class Neighbourhood:
    """The rows within K edges of some, K the layers, and the propagations before and after the batch among them.

    Of values that are zero elsewhere than at the seeds, a propagation is exact on all rows of the neighbourhood; of any
    others it is exact at the seeds.
    """

    def __init__(self, graph: GraphChange, problem: Problem, seeds: Tensor) -> None:
        """Find them; ``seeds`` (n,) bool are the rows that move and all that lose an example."""
        shard, communicator = problem.shard, problem.communicator
        self._kernels, self.weights = problem.kernels, problem.model.layer_weights
        self.positions = torch.nonzero(seeds).flatten()
        """(c,) ascending."""
        self.members = moving_mask(shard, self.positions, communicator)
        """(N,) bool: those of all workers."""
        for _ in self.weights[1:]:
            far = graph.edges.other.index_select(0, edges_of(graph.edges.indptr, self.positions)[1])
            self.members[communicator.all_gather(distinct(far, len(self.members)))] = True
            self.positions = torch.nonzero(self.members[shard.rows]).flatten()
        self._links, edges = links_inside(graph.before.links, self.positions, self.members, communicator)
        self.before, self.after = (
            ShardedPropagation(self._links, whole.coefficient[edges], self.weights, communicator, problem.kernels)
            for whole in (graph.before, graph.after)
        )
        self._entries = self.after.coefficient - self.before.coefficient  # by how much those of A change

    @property
    def edges(self) -> int:
        """Graph edges of the own rows among them."""
        return len(self._links.col)

    def places(self, positions: Tensor) -> Tensor:
        """Where rows at some positions (k,), all of the neighbourhood, stand in it."""
        return torch.searchsorted(self.positions, positions)

    def graph_change(self, values: Tensor) -> Tensor:
        """(P_after - P_before) of values (c, d), whatever they are elsewhere: exact on all these rows, (c, d)."""
        total, layer, difference = torch.zeros_like(values), values, torch.zeros_like(values)
        for depth, weight in enumerate(self.weights[1:]):
            arriving = self.before.arriving(layer)
            step = self._kernels.weighted_sum(self._links.indptr, self._links.col, self._entries, arriving)
            if depth:
                step.add_(self.after.layer(self.after.arriving(difference)))
            difference, total = step, total.add_(weight * step)
            if depth + 2 < len(self.weights):
                layer = self.before.layer(arriving)
        return total
