"""Graph models: outputs F = sum_k w_k A^k E, so erasing positives also changes the terms of kept examples (spillover).

The exact product: every output and every example takes part, whatever rows move. Meant for data that fits; nothing is
pruned, so nothing is approximated.
"""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import CurvatureKind, Outside, Point, RowValues
from ifru_dist.influence.shard import Block, Shard, make_block, only_edges, row_counts
from ifru_dist.models.base import Model


class ShardedPropagation:
    """sum_k w_k A^k of row values (n, d), with A over the positive edges that a mask leaves."""

    def __init__(
        self, block: Block, present: Tensor, weights: tuple[float, ...], communicator: Communicator, kernels: Kernels
    ) -> None:
        """Coefficients 1 / sqrt(deg deg) of the edges.

        Args:
            block: All own rows with all their positive edges (e).
            present: (e,) bool: the edges of the graph.
            weights: w_0 .. w_K.
            communicator: Exchanges with the other workers.
            kernels: Edge loops.
        """
        self._block, self._communicator, self._kernels = block, communicator, kernels
        self.weights = weights
        degree = row_counts(block.indptr, present).double()
        scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)[:, None]
        far = communicator.gather_rows(block.plan, scale)[:, 0]
        near = torch.repeat_interleave(scale[:, 0], torch.diff(block.indptr))
        self.coefficient = near * far[block.col] * present.double()

    def apply(self, values: Tensor) -> Tensor:
        """P values, (n, d)."""
        total, layer = self.weights[0] * values, values
        for weight in self.weights[1:]:
            layer = self.layer(self.arriving(layer))
            total = total + weight * layer
        return total

    def arriving(self, values: Tensor) -> Tensor:
        """Far ends' values (h, d)."""
        return self._communicator.gather_rows(self._block.plan, values)

    def layer(self, arriving: Tensor) -> Tensor:
        """A values, (n, d), from the far ends' values (h, d)."""
        return self._kernels.weighted_sum(self._block.indptr, self._block.col, self.coefficient, arriving)

    def squared_layer(self, values: Tensor) -> Tensor:
        """The matrix of A's squared entries times values (n, d)."""
        block, arriving = self._block, self.arriving(values)
        return self._kernels.weighted_sum(block.indptr, block.col, self.coefficient.square(), arriving)


def propagated_difference(
    before: ShardedPropagation,
    first: Tensor,
    after: ShardedPropagation,
    second: Tensor,
    difference: Tensor,
    kernels: Kernels,
) -> Tensor:
    """P_before first - P_after second (n, d), every difference formed per edge; ``difference`` is first - second."""
    total = before.weights[0] * difference
    block = before._block
    for weight in before.weights[1:]:
        near, far = before.arriving(first), after.arriving(second)
        change = kernels.weighted_difference(block.indptr, block.col, before.coefficient, near, after.coefficient, far)
        first, second = before.layer(near), after.layer(far)
        total = total + weight * change
    return total


class PropagatedObjective:
    """A batch for a dot-product model on propagated embeddings."""

    def __init__(
        self,
        shard: Shard,
        erased: Tensor,
        selected: Tensor,
        model: Model,
        communicator: Communicator,
        kernels: Kernels,
        product_dtype: torch.dtype = torch.float64,
    ) -> None:
        """Prepare a batch; the arguments are those of DirectObjective, but products are always float64."""
        self.shard, self.model = shard, model
        self.communicator, self.kernels = communicator, kernels
        everything = torch.arange(len(shard.rows), device=erased.device)
        self.block = make_block(shard, erased, everything, communicator)
        positive = only_edges(self.block, self.block.label > 0.5)
        graphs = (torch.ones_like(positive.erased), ~positive.erased)
        self.before, self.after = (
            ShardedPropagation(positive, present, model.layer_weights, communicator, kernels) for present in graphs
        )
        self._kept_count = row_counts(self.block.indptr, ~erased).double()[:, None]
        self.all_ridge = model.l2 * self._kept_count + model.l2_row
        self.start = self.outputs(self.before, shard.embeddings)
        self.start_error = model.loss.error(self.start.score, self.block.label)
        self._tilt: Tensor | None = None
        self._anchor = PropagatedPoint(self, shard.embeddings)
        self._select(selected)

    def at(self, embeddings: Tensor) -> "PropagatedPoint":
        """All examples at the own rows' embeddings (n, d)."""
        return self._anchor if embeddings is self.shard.embeddings else PropagatedPoint(self, embeddings)

    def start_gradient(self) -> Tensor:
        """Gradient of all examples before the batch on the graph before, regularisers included, (m, d)."""
        if self._tilt is None:
            block, start = self.block, self.start
            by_output = self.kernels.weighted_sum(block.indptr, block.col, self.start_error, start.arriving)
            factor = self.model.l2 * self.shard.degrees.double()[:, None] + self.model.l2_row
            self._tilt = self.before.apply(by_output) + factor * self.shard.embeddings
        return self._tilt[self.positions]

    def start_residual(self) -> RowValues:
        """The residual before the update: direct and spillover influence on all rows but those that are reset."""
        return RowValues(self._solved, self._anchor.everywhere()[self._solved])

    def outside(self, point: Point) -> Outside:
        """The residual and the diagonal on all rows that are not selected."""
        assert isinstance(point, PropagatedPoint)
        free = torch.zeros(len(self.shard.rows), dtype=torch.bool, device=self._kept_count.device)
        free[self._solved] = True
        free[self.positions] = False
        positions = torch.nonzero(free).flatten()
        return Outside(positions, point.everywhere()[positions], point.diagonal()[positions])

    def selecting(self, selected: Tensor) -> Self:
        """The same batch with other selected rows, (n,) bool."""
        other = copy.copy(self)
        other._select(selected)
        other._anchor = self._anchor.seen_by(other)
        return other

    def outputs(self, propagation: ShardedPropagation, embeddings: Tensor) -> "_Outputs":
        """The examples at the outputs that a graph makes of embeddings (n, d)."""
        rows = propagation.apply(embeddings)
        arriving = self.communicator.gather_rows(self.block.plan, rows)
        return _Outputs(rows, arriving, self.kernels.scores(self.block.indptr, self.block.col, rows, arriving))

    def _select(self, selected: Tensor) -> None:
        """Let these rows (n,) bool move."""
        self.positions = torch.nonzero(selected).flatten()
        self.ridge = self.all_ridge[self.positions]

    @property
    def _solved(self) -> Tensor:
        """(k,) positions of all rows but those that lost every example."""
        return torch.nonzero((self._kept_count[:, 0] > 0) | (self.shard.degrees == 0)).flatten()


@dataclass(frozen=True)
class _Outputs:
    """Outputs at both ends of the examples, and their scores."""

    rows: Tensor
    """(n, d)."""
    arriving: Tensor
    """(h, d)."""
    score: Tensor
    """(e,)."""


class PropagatedPoint:
    """All kept examples at some embeddings, on the graph after."""

    def __init__(self, objective: PropagatedObjective, embeddings: Tensor) -> None:
        """Outputs, scores and errors at the own rows' embeddings (n, d)."""
        self._objective, self.embeddings = objective, embeddings
        self.state = objective.outputs(objective.after, embeddings)
        block, loss = objective.block, objective.model.loss
        self.error = loss.error(self.state.score, block.label) * block.kept
        self.weight = loss.curvature(self.state.score, block.label) * block.kept
        self._everywhere: Tensor | None = None

    def seen_by(self, objective: PropagatedObjective) -> "PropagatedPoint":
        """The same point with the rows that another objective selects."""
        other = copy.copy(self)
        other._objective = objective
        return other

    def residual(self) -> Tensor:
        """The residual on the selected rows (m, d)."""
        return self.everywhere()[self._objective.positions]

    def everywhere(self) -> Tensor:
        """The residual on all own rows (n, d): all examples on the graph before minus the kept ones on the graph after.

        Every difference is formed per edge.
        """
        if self._everywhere is None:
            self._everywhere = self._difference()
        return self._everywhere

    def curvature(self, kind: CurvatureKind) -> "PropagatedCurvature":
        """Second derivative on the selected rows."""
        return PropagatedCurvature(self._objective, self, kind)

    def loss_change(self) -> RowValues:
        """Changes of the kept examples' losses since E0 on the graph after; an example counts half at each end."""
        objective = self._objective
        block, loss = objective.block, objective.model.loss
        anchor = objective.at(objective.shard.embeddings)
        change = loss.value(self.state.score, block.label) - loss.value(anchor.state.score, block.label)
        everything = torch.arange(len(self.embeddings), device=change.device)
        return RowValues(everything, objective.kernels.row_sums(block.indptr, 0.5 * change * block.kept))

    def diagonal(self) -> Tensor:
        """Approximate Gauss-Newton diagonal on all own rows (n, d): each layer by itself, no terms between layers."""
        objective = self._objective
        block, after = objective.block, objective.after
        layer = objective.kernels.weighted_sum(block.indptr, block.col, self.weight, self.state.arriving.square())
        total = after.weights[0] ** 2 * layer
        for share in after.weights[1:]:
            layer = after.squared_layer(layer)
            total = total + share**2 * layer
        return total.add_(objective.all_ridge)

    def _difference(self) -> Tensor:
        """``everywhere``, computed."""
        objective, now, start = self._objective, self.state, self._objective.start
        block, kernels = objective.block, objective.kernels
        sides = ((objective.start_error, start.arriving), (self.error, now.arriving))
        first, second = (kernels.weighted_sum(block.indptr, block.col, *side) for side in sides)
        change = kernels.weighted_difference(block.indptr, block.col, *sides[0], *sides[1])
        data = propagated_difference(objective.before, first, objective.after, second, change, kernels)
        return data.add_(self._regulariser_difference())

    def _regulariser_difference(self) -> Tensor:
        """The regularisers' gradient of all examples before minus that of the kept ones now, (n, d)."""
        objective, before = self._objective, self._objective.shard.embeddings
        lost = row_counts(objective.block.indptr, objective.block.erased).double()[:, None]
        return objective.model.l2 * lost * before + objective.all_ridge * (before - self.embeddings)


class PropagatedCurvature:
    """The Gauss-Newton matrix or the Hessian of the kept examples on the graph after, at one point."""

    def __init__(self, objective: PropagatedObjective, point: PropagatedPoint, kind: CurvatureKind) -> None:
        """Weights and preconditioner at a point."""
        self._objective, self._point = objective, point
        self._with_errors = kind == "hessian"
        self.diagonal = point.diagonal()[objective.positions]

    def blocks(self, chosen: Tensor) -> None:
        """None: an output depends on rows far away, so a block of the embeddings would have to read them all."""

    def product(self, vector: Tensor) -> Tensor:
        """P^T H P vector + the regularisers' term on the selected rows (m, d), where H is that of the outputs."""
        objective, state = self._objective, self._point.state
        block, kernels = objective.block, objective.kernels
        spread = torch.zeros_like(state.rows)
        spread[objective.positions] = vector
        change = objective.after.apply(spread)
        far = objective.communicator.gather_rows(block.plan, change)
        ends = (self._point.weight, state.rows, state.arriving)
        image = kernels.gauss_newton(block.indptr, block.col, block.col, *ends, change, far)
        if self._with_errors:
            image.add_(kernels.weighted_sum(block.indptr, block.col, self._point.error, far))
        return objective.after.apply(image)[objective.positions].addcmul_(objective.ridge, vector)
