"""Models whose score reads the embedding rows themselves: the influence of an example is direct, at its own rows."""

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import CurvatureKind, Outside, Point, RowValues
from ifru_dist.influence.shard import Block, Shard, index_of, make_block, only_edges, row_counts
from ifru_dist.models.base import Model


class DirectObjective:
    """A batch for a dot-product model without propagation; reads only the selected rows' edges while it solves."""

    def __init__(
        self,
        shard: Shard,
        erased: Tensor,
        selected: Tensor,
        model: Model,
        communicator: Communicator,
        kernels: Kernels,
        product_dtype: torch.dtype,
    ) -> None:
        """Prepare a batch.

        Args:
            shard: This worker's rows (n) and edges (e).
            erased: (e,) bool.
            selected: (n,) bool: the rows to move; no row that loses all its examples.
            model: The model; its score must be the dot product of the two rows.
            communicator: Exchanges with the other workers.
            kernels: Edge loops.
            product_dtype: Type of what curvature products read at the far ends. float32 halves what they read and what
                travels; it changes the matrix by a part in 10^7, which the next Newton step corrects: residuals are
                always float64.
        """
        self.product_dtype = product_dtype
        self.shard, self.erased, self.model = shard, erased, model
        self.communicator, self.kernels = communicator, kernels
        self.positions = torch.nonzero(selected).flatten()
        self.block = make_block(shard, erased, self.positions, communicator)
        kept = row_counts(self.block.indptr, ~self.block.erased).double()[:, None]
        self.ridge = model.l2 * kept + model.l2_row
        self.start = self._examples(self.block, shard.embeddings)
        self._tilt: Tensor | None = None
        self._moves = torch.zeros(len(communicator.ownership.rank), dtype=torch.bool, device=erased.device)
        self._moves[communicator.all_gather(shard.rows[self.positions])] = True
        self.moving_plan, self.moving = self._moving_exchange()
        self._moving_halo = index_of(self.block.plan.rows, len(self._moves))[self.moving_plan.rows]

    def at(self, embeddings: Tensor) -> "DirectPoint":
        """The examples of the selected rows; only rows that moved travel."""
        if embeddings is self.shard.embeddings:
            return DirectPoint(self, embeddings, self.start)
        rows, halo = embeddings[self.positions], self.start.halo.clone()
        halo[self._moving_halo] = self.communicator.gather_rows(self.moving_plan, rows)
        return DirectPoint(self, embeddings, _Examples(self.block, rows, halo, self.model, self.kernels))

    def start_gradient(self) -> Tensor:
        """Gradient of all examples before the batch, regularisers included, (m, d)."""
        if self._tilt is None:
            block, start = self.block, self.start
            data = self.kernels.weighted_sum(block.indptr, block.col, start.error, start.halo)
            factor = self.model.l2 * torch.diff(block.indptr).double()[:, None] + self.model.l2_row
            self._tilt = data.addcmul_(factor, start.rows)
        return self._tilt

    def start_residual(self) -> RowValues:
        """The residual before the update: not zero only at the endpoints, all of which are selected."""
        block, start = self.block, self.start
        gone = only_edges(block, block.erased)
        data = self.kernels.weighted_sum(gone.indptr, gone.col, start.error[block.erased], start.halo)
        lost = row_counts(block.indptr, block.erased).double()[:, None]
        return RowValues(self.positions, data.addcmul_(self.model.l2 * lost, start.rows))

    def outside(self, point: Point) -> Outside:
        """Neighbours of the selected rows, from their edges to rows that moved.

        The diagonal is that of those edges, scaled up to all the edges of a row: reading the others would mean reading
        the neighbours' neighbours.
        """
        fringe = torch.zeros(len(self.shard.rows), dtype=torch.bool, device=self.erased.device)
        fringe[self.block.plan.send] = True
        fringe[self.positions] = False
        # Emptied rows are reset, not solved for; all other rows outside keep all their examples, so only the terms of
        # edges to rows that moved have changed, and the regularisers' have not.
        fringe &= row_counts(self.shard.indptr, self.erased) == 0
        positions = torch.nonzero(fringe).flatten()
        block = make_block(self.shard, self.erased, positions, self.communicator, self._moves)
        before, after = (self._examples(block, values) for values in (self.shard.embeddings, point.embeddings))
        residual = self.kernels.weighted_difference(
            block.indptr, block.col, before.error, before.halo, after.error, after.halo
        )
        read = self.kernels.weighted_sum(block.indptr, block.col, after.weight(), after.halo.square())
        degree, seen = self.shard.degrees[positions].double(), torch.diff(block.indptr).double().clamp(min=1)
        diagonal = read.mul_((degree / seen)[:, None]).add_((self.model.l2 * degree + self.model.l2_row)[:, None])
        return Outside(positions, residual, diagonal)

    def selecting(self, selected: Tensor) -> Self:
        """The same batch with other selected rows, (n,) bool."""
        return type(self)(
            self.shard, self.erased, selected, self.model, self.communicator, self.kernels, self.product_dtype
        )

    def _examples(self, block: Block, embeddings: Tensor) -> "_Examples":
        """The examples of a block at the own rows' embeddings (n, d)."""
        halo = self.communicator.gather_rows(block.plan, embeddings)
        return _Examples(block, embeddings[block.positions], halo, self.model, self.kernels)

    def _moving_exchange(self) -> tuple[GatherPlan, Tensor]:
        """The exchange of selected far ends only, and each edge's index in it (-1: its far end does not move).

        What leaves is counted among the selected rows, so that a vector (m, d) can be sent as it is.
        """
        arriving = self.block.plan.rows
        plan = self.communicator.plan(arriving[self._moves[arriving]])
        among_selected = index_of(self.positions, len(self.shard.rows))
        index = index_of(plan.rows, len(self._moves))
        return replace(plan, send=among_selected[plan.send]), index[arriving][self.block.col]


class _Examples:
    """The examples of a block at some embeddings: both ends, scores, errors."""

    def __init__(self, block: Block, rows: Tensor, halo: Tensor, model: Model, kernels: Kernels) -> None:
        self.block, self.rows, self.halo, self.model = block, rows, halo, model
        self.score = kernels.scores(block.indptr, block.col, rows, halo)
        self.error = model.loss.error(self.score, block.label)

    def weight(self) -> Tensor:
        """Curvature of the kept examples' losses by their scores, (e,)."""
        return self.model.loss.curvature(self.score, self.block.label) * self.block.kept


class DirectPoint:
    """The selected rows' examples at some embeddings."""

    def __init__(self, objective: DirectObjective, embeddings: Tensor, state: _Examples) -> None:
        """The objective's examples at the own rows' embeddings (n, d)."""
        self._objective, self.embeddings, self.state = objective, embeddings, state

    def residual(self) -> Tensor:
        """Gradient of all examples before minus that of the kept ones now, formed edge by edge, (m, d)."""
        objective, now = self._objective, self.state
        start, block = objective.start, objective.block
        if now is start:
            return objective.start_residual().values
        data = objective.kernels.weighted_difference(
            block.indptr, block.col, start.error, start.halo, now.error * block.kept, now.halo
        )
        lost = row_counts(block.indptr, block.erased).double()[:, None]
        return data.addcmul_(objective.model.l2 * lost, start.rows).addcmul_(objective.ridge, start.rows - now.rows)

    def curvature(self, kind: CurvatureKind) -> "DirectCurvature":
        """Second derivative of the kept examples on the selected rows."""
        return DirectCurvature(self._objective, self.state, kind)

    def loss_change(self) -> RowValues:
        """Changes of the kept examples' losses at the selected rows; an example at two of them counts half at each."""
        objective, now = self._objective, self.state
        block, loss = objective.block, objective.model.loss
        change = (loss.value(now.score, block.label) - loss.value(objective.start.score, block.label)) * block.kept
        share = torch.where(objective.moving >= 0, 0.5, 1.0).to(change.dtype)
        return RowValues(objective.positions, objective.kernels.row_sums(block.indptr, change * share))


class DirectCurvature:
    """The Gauss-Newton matrix or the Hessian of the kept examples at one point."""

    def __init__(self, objective: DirectObjective, state: _Examples, kind: CurvatureKind) -> None:
        """Weights and diagonal at a state."""
        self._objective, self._state, self._weight = objective, state, state.weight()
        self._halo = state.halo.to(objective.product_dtype)
        self._error = state.error * state.block.kept if kind == "hessian" else None
        block = state.block
        data = objective.kernels.weighted_sum(block.indptr, block.col, self._weight, state.halo.square())
        self.diagonal = data.add_(objective.ridge)

    def blocks(self, chosen: Tensor) -> Tensor:
        """The d x d blocks of the Gauss-Newton matrix at the chosen rows (b,), (b, d, d)."""
        block, kernels = self._state.block, self._objective.kernels
        data = kernels.row_blocks(block.indptr, block.col, self._weight, self._state.halo, chosen)
        data.diagonal(dim1=1, dim2=2).add_(self._objective.ridge[chosen])
        return data

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector on the selected rows (m, d); only selected rows travel."""
        objective, block = self._objective, self._state.block
        arriving = objective.communicator.gather_rows(objective.moving_plan, vector.to(objective.product_dtype))
        image = objective.kernels.gauss_newton(
            block.indptr, block.col, objective.moving, self._weight, self._state.rows, self._halo, vector, arriving
        )
        if self._error is not None:
            image.add_(objective.kernels.moving_sum(block.indptr, objective.moving, self._error, arriving))
        return image.addcmul_(objective.ridge, vector)
