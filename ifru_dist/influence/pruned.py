"""The pruned product of a graph model (docs/method.md): a change of the selected rows stays among their outputs.

Walks stay inside the selected rows, with the degrees of the whole graph; the examples at their outputs take part, their
other outputs held fixed. Symmetric and positive semi-definite, but walks that leave and return are dropped.
"""

import torch
from torch import Tensor

from ifru_dist.influence.exchange import moving_exchange, moving_mask
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.propagation import ShardedPropagation, spread_diagonal
from ifru_dist.influence.sampling import within_budget
from ifru_dist.influence.terms import TermsAt, WholeTerms
from ifru_dist.models.base import Dense


class PrunedTerms:
    """The examples and graph edges that the products of one selection of rows (m) read."""

    def __init__(self, problem: Problem, positions: Tensor, after: ShardedPropagation) -> None:
        """Choose them, within ``options.edge_budget``.

        Args:
            problem: the batch.
            positions: (m,) selected rows.
            after: propagation of the whole graph after the batch.
        """
        shard, communicator = problem.shard, problem.communicator
        self.communicator = communicator
        moves = moving_mask(shard, positions, communicator)
        whole = problem.block(positions)
        self.block, _ = within_budget(whole, shard.degrees, moves, communicator, problem.options.edge_budget)
        self._terms = problem.terms(self.block)
        self.propagation = after.inside(positions, moves)
        self.moving = moving_exchange(self.block, positions, moves, shard, communicator)

    @property
    def edges_per_product(self) -> int:
        """Edges of examples and of the graph that one product reads on this worker."""
        layers = len(self.propagation.weights) - 1
        return len(self.block.label) + 2 * layers * len(self.propagation.coefficient)

    def at(self, outputs: Tensor, dense: Dense) -> WholeTerms:
        """The examples at the outputs (n, d) of all own rows."""
        halo = self.communicator.gather_rows(self.block.plan, outputs)
        return self._terms.at(outputs[self.block.positions], halo, dense)


class PrunedCurvature:
    """The pruned Gauss-Newton matrix, or Hessian, at one point."""

    def __init__(self, pruned: PrunedTerms, at: TermsAt, ridge: Tensor, kind: CurvatureKind) -> None:
        """Weights and preconditioner; ``ridge`` (m, 1) is the regularisers'."""
        self._pruned, self._ridge = pruned, ridge
        self._terms = at.curvature(kind, torch.float64)
        self.diagonal = spread_diagonal(pruned.propagation, self._terms.diagonal).add_(ridge)

    def blocks(self, chosen: Tensor) -> None:
        """None, as for the exact product."""

    def product(self, vector: Tensor, damping: Tensor | None = None) -> Tensor:
        """P^T H P vector + the regularisers' term (m, d), with P among the selected rows."""
        pruned = self._pruned
        change = pruned.propagation.apply(vector)
        arriving = pruned.communicator.gather_rows(pruned.moving.plan, change)
        image = self._terms.product(change, arriving, pruned.moving.index)
        ridge = self._ridge if damping is None else self._ridge + damping
        return pruned.propagation.apply(image).addcmul_(ridge, vector)
