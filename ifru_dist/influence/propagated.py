"""Graph models: outputs F = sum_k w_k A^k E, so erasing positives also changes the terms of kept examples (spillover).

The residual is exact: every output and every example takes part in it, whatever rows move. The curvature product is
exact, too, or pruned (``ifru_dist.influence.pruned``).
"""

import copy
from typing import Self

import torch
from torch import Tensor

from ifru_dist.influence.dense import DenseReader
from ifru_dist.influence.objective import Curvature, CurvatureKind, Outside, Point, RowValues
from ifru_dist.influence.place import Place
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.propagation import ShardedPropagation, links_of, normalised, spread_diagonal
from ifru_dist.influence.pruned import PrunedCurvature, PrunedTerms
from ifru_dist.influence.shard import row_totals
from ifru_dist.influence.terms import WholeTerms


class PropagatedObjective:
    """A batch for a model on propagated embeddings. Dense parameters stay as they are."""

    dtype = torch.float64

    def __init__(self, problem: Problem, selected: Tensor) -> None:
        """Let rows (n,) bool move, none that loses all its examples. ``options.product`` prunes products."""
        self.problem, shard, model = problem, problem.shard, problem.model
        communicator = problem.communicator
        assert shard.graph is not None
        self.block = block = problem.block(problem.all_rows)
        self._terms = problem.terms(block)
        before = shard.embeddings.double()
        self.dense = DenseReader(shard, communicator).of(before)
        graph, links = shard.graph, links_of(shard.graph, block.plan, len(communicator.ownership.rank))
        gone = problem.erased[graph.example]
        self.before, self.after = (
            ShardedPropagation(
                links, normalised(links, present, communicator), model.layer_weights, communicator, problem.kernels
            )
            for present in (torch.ones_like(gone), ~gone)
        )
        self._row_decay = model.l2_row * (~shard.is_dense).double()[:, None]
        self.all_ridge = model.l2 * row_totals(block.indptr, block.kept)[:, None] + self._row_decay
        self.lost_ridge = model.l2 * row_totals(block.indptr, block.gone)[:, None]
        self._left = row_totals(block.indptr, (~block.erased).double()) > 0
        self.start = self._examples(self.before.apply(before) if shard.outputs is None else shard.outputs)
        self._tilt: Tensor | None = None
        layers = len(model.layer_weights) - 1
        self._exact_edges = len(block.label) + 2 * layers * len(gone)
        self.edges_per_residual = 3 * len(block.label) + 4 * layers * len(gone)
        self._select(selected)
        self.anchor = self.after_erasure(before)
        self._anchor_residual: Tensor | None = None

    def at(self, place: Place) -> "PropagatedPoint":
        """All examples at a place of the own rows."""
        state = self.anchor if place.moved is None else self.after_erasure(place.everywhere())
        return PropagatedPoint(self, place, state)

    def start_gradient(self) -> Tensor:
        """Gradient of all examples before the batch on the graph before, regularisers included, (m, d)."""
        if self._tilt is None:
            by_output = self.start.gradient()
            factor = self.problem.model.l2 * row_totals(self.block.indptr, self.block.factor)[:, None] + self._row_decay
            self._tilt = self.before.apply(by_output) + factor * self.problem.shard.embeddings
        return self._tilt[self.positions]

    def start_squares(self, *, everywhere: bool = True) -> Tensor:
        """Of all own rows in any case: by the outputs, spread over the embeddings without terms between layers."""
        terms = self.problem.untempered_terms(self.block)
        squares = terms.at(self.start.rows, self.start.halo, self.dense).squares()
        return spread_diagonal(self.before, squares).mean(dim=1)

    def start_residual(self) -> RowValues:
        """The residual before the update: direct and spillover influence on all rows but those that are reset."""
        return RowValues(self._solved, self.anchor_residual()[self._solved])

    def outside(self, point: Point) -> Outside:
        """The residual and the diagonal on all rows that are not selected."""
        assert isinstance(point, PropagatedPoint)
        free = torch.zeros(len(self.problem.shard.rows), dtype=torch.bool, device=self.problem.erased.device)
        free[self._solved] = True
        free[self.positions] = False
        positions = torch.nonzero(free).flatten()
        return Outside(positions, point.everywhere()[positions], lambda: point.diagonal()[positions])

    def selecting(self, selected: Tensor) -> Self:
        """The same batch with other selected rows, (n,) bool."""
        other = copy.copy(self)
        other._select(selected)
        return other

    def anchor_residual(self) -> Tensor:
        """The residual before the update on all own rows, (n, d)."""
        if self._anchor_residual is None:
            start = Place(self.problem.shard.embeddings, self.positions)
            self._anchor_residual = PropagatedPoint(self, start, self.anchor).difference()
        return self._anchor_residual

    def after_erasure(self, embeddings: Tensor) -> WholeTerms:
        """The examples at the outputs that the graph without the erased edges makes of embeddings (n, d)."""
        return self._examples(self.after.apply(embeddings))

    def _examples(self, outputs: Tensor) -> WholeTerms:
        """The examples at outputs (n, d)."""
        return self._terms.at(outputs, self.problem.communicator.gather_rows(self.block.plan, outputs), self.dense)

    def _select(self, selected: Tensor) -> None:
        """Let these rows (n,) bool move."""
        self.positions = torch.nonzero(selected).flatten()
        self.ridge = self.all_ridge[self.positions]
        self.prunes = self.problem.options.product == "pruned"
        self.pruned = PrunedTerms(self.problem, self.positions, self.after) if self.prunes else None
        self.edges_per_product = self._exact_edges if self.pruned is None else self.pruned.edges_per_product

    @property
    def _solved(self) -> Tensor:
        """(k,) positions of all rows but those that lost every example, and the dense parameters'."""
        return torch.nonzero((self._left | (self.problem.shard.degrees == 0)) & ~self.problem.shard.is_dense).flatten()


class PropagatedPoint:
    """All kept examples at some embeddings, on the graph after."""

    def __init__(self, objective: PropagatedObjective, place: Place, state: WholeTerms) -> None:
        """Outputs, scores and errors at a place of the own rows."""
        self._objective, self.place, self.state = objective, place, state
        self._everywhere: Tensor | None = None

    @property
    def outputs(self) -> Tensor:
        """(n, d) of the own rows."""
        return self.state.rows

    def residual(self) -> Tensor:
        """The residual on the selected rows (m, d)."""
        return self.everywhere()[self._objective.positions]

    def everywhere(self) -> Tensor:
        """The residual on all own rows (n, d): all examples on the graph before minus the kept ones on the graph after.

        Every difference is formed per edge.
        """
        if self._everywhere is None:
            at_start = self.state is self._objective.anchor
            self._everywhere = self._objective.anchor_residual() if at_start else self.difference()
        return self._everywhere

    def curvature(self, kind: CurvatureKind, *, exact: bool = False) -> Curvature:
        """Second derivative on the selected rows."""
        objective = self._objective
        if objective.pruned is None or exact:
            return PropagatedCurvature(objective, self, kind)
        at = objective.pruned.at(self.state.rows, objective.dense)
        return PrunedCurvature(objective.pruned, at, objective.ridge, kind)

    def loss_change(self) -> RowValues:
        """Changes of the kept examples' losses since E0 on the graph after, in equal shares at each of their rows."""
        objective = self._objective
        block, anchor = objective.block, objective.anchor
        share = 1.0 / (1 + block.cols.shape[1])
        change = share * (self.state.loss() - anchor.loss()) * block.kept
        everything = objective.problem.all_rows
        return RowValues(everything, objective.problem.kernels.row_sums(block.indptr, change))

    def diagonal(self) -> Tensor:
        """Approximate Gauss-Newton diagonal on all own rows (n, d): each layer by itself, no terms between layers."""
        objective = self._objective
        terms = self.state.curvature("gauss-newton", torch.float64)
        return spread_diagonal(objective.after, terms.diagonal).add_(objective.all_ridge)

    def difference(self) -> Tensor:
        """``everywhere``, computed."""
        objective, now, start = self._objective, self.state, self._objective.start
        first, second, change = start.gradient(), now.kept_gradient(), start.less(now)
        data = objective.before.less(first, objective.after, second, change)
        before = objective.problem.shard.embeddings
        data.add_(objective.lost_ridge * before)
        moved = self.place.positions
        return data.index_add_(0, moved, -objective.all_ridge[moved] * self.place.change)


class PropagatedCurvature:
    """The Gauss-Newton matrix or the Hessian of the kept examples on the graph after, at one point."""

    def __init__(self, objective: PropagatedObjective, point: PropagatedPoint, kind: CurvatureKind) -> None:
        """Weights and preconditioner at a point."""
        self._objective = objective
        self._terms = point.state.curvature(kind, torch.float64)
        by_output = self._terms.diagonal
        self.diagonal = spread_diagonal(objective.after, by_output).add_(objective.all_ridge)[objective.positions]

    def blocks(self, chosen: Tensor) -> None:
        """None: an output depends on rows far away, so a block of the embeddings would have to read them all."""

    def product(self, vector: Tensor, damping: Tensor | None = None) -> Tensor:
        """P^T H P vector + the regularisers' term on the selected rows (m, d), where H is that of the outputs."""
        objective, block = self._objective, self._objective.block
        spread = torch.zeros_like(objective.problem.shard.embeddings, dtype=torch.float64)
        spread[objective.positions] = vector
        change = objective.after.apply(spread)
        far = objective.problem.communicator.gather_rows(block.plan, change)
        image = self._terms.product(change, far, block.cols)
        ridge = objective.ridge if damping is None else objective.ridge + damping
        return objective.after.apply(image)[objective.positions].addcmul_(ridge, vector)
