"""Models whose score reads the embedding rows themselves: the influence of an example is direct, at its own rows."""

from dataclasses import replace

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import RowValues
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
        self._product_dtype = product_dtype
        self._shard, self._erased, self._model = shard, erased, model
        self._communicator, self._kernels = communicator, kernels
        self.positions = torch.nonzero(selected).flatten()
        self._block = make_block(shard, erased, self.positions, communicator)
        self._start = self._examples(self._block, shard.embeddings)
        self._moves = torch.zeros(len(communicator.ownership.rank), dtype=torch.bool, device=erased.device)
        self._moves[communicator.all_gather(shard.rows[self.positions])] = True
        self._moving_plan, self._moving = self._moving_exchange()
        self._moving_halo = index_of(self._block.plan.rows, len(self._moves))[self._moving_plan.rows]

    def linearise(self, embeddings: Tensor) -> tuple[Tensor, "DirectCurvature"]:
        """The residual and the Gauss-Newton matrix on the selected rows (m, d)."""
        if embeddings is self._shard.embeddings:
            return self.start_residual().values, DirectCurvature(self, self._start)
        now = self._moved(embeddings)
        return self._residual(self._start, now), DirectCurvature(self, now)

    def start_residual(self) -> RowValues:
        """The residual before the update: not zero only at the endpoints, all of which are selected."""
        block, start = self._block, self._start
        gone = only_edges(block, block.erased)
        data = self._kernels.weighted_sum(gone.indptr, gone.col, start.error[block.erased], start.halo)
        lost = row_counts(block.indptr, block.erased).double()[:, None]
        return RowValues(self.positions, data.addcmul_(self._model.l2 * lost, start.rows))

    def end_residual(self, embeddings: Tensor) -> RowValues:
        """The residual after the update, on the selected rows and on all their neighbours."""
        inner = self._residual(self._start, self._moved(embeddings))
        outside = torch.zeros(len(self._shard.rows), dtype=torch.bool, device=embeddings.device)
        outside[self._block.plan.send] = True
        outside[self.positions] = False
        # Emptied rows are reset, not solved for; all other rows outside keep all their examples, so only the terms of
        # edges to rows that moved have changed, and the regulariser's have not.
        outside &= row_counts(self._shard.indptr, self._erased) == 0
        positions = torch.nonzero(outside).flatten()
        outer = self._outer_residual(positions, embeddings)
        order = torch.argsort(both := torch.cat([self.positions, positions]))
        return RowValues(both[order], torch.cat([inner, outer])[order])

    def product(self, state: "_Examples", halo: Tensor, weight: Tensor, vector: Tensor) -> Tensor:
        """The Gauss-Newton matrix at a state times a vector (m, d); only selected rows travel."""
        arriving = self._communicator.gather_rows(self._moving_plan, vector.to(self._product_dtype))
        block = self._block
        return self._kernels.gauss_newton(
            block.indptr, block.col, self._moving, weight, state.rows, halo, vector, arriving
        )

    def for_products(self, halo: Tensor) -> Tensor:
        """Far ends (h, d) in the type that products read."""
        return halo.to(self._product_dtype)

    def diagonal(self, state: "_Examples", weight: Tensor) -> Tensor:
        """Diagonal of the Gauss-Newton matrix at a state, (m, d)."""
        return self._kernels.weighted_sum(self._block.indptr, self._block.col, weight, state.halo.square())

    def regulariser(self) -> Tensor:
        """(m, 1) factor of the L2 term of the kept examples on the selected rows."""
        return self._model.l2 * row_counts(self._block.indptr, ~self._block.erased).double()[:, None]

    def _examples(self, block: Block, embeddings: Tensor) -> "_Examples":
        """The examples of a block at the own rows' embeddings (n, d)."""
        halo = self._communicator.gather_rows(block.plan, embeddings)
        return _Examples(block, embeddings[block.positions], halo, self._model, self._kernels)

    def _moved(self, embeddings: Tensor) -> "_Examples":
        """The examples of the selected rows at moved embeddings (n, d); only rows that moved travel."""
        rows, halo = embeddings[self.positions], self._start.halo.clone()
        halo[self._moving_halo] = self._communicator.gather_rows(self._moving_plan, rows)
        return _Examples(self._block, rows, halo, self._model, self._kernels)

    def _residual(self, before: "_Examples", after: "_Examples") -> Tensor:
        """Gradient of all examples before minus that of the kept ones after, formed edge by edge."""
        block = self._block
        data = self._kernels.weighted_difference(
            block.indptr, block.col, before.error, before.halo, after.error * block.kept, after.halo
        )
        if self._model.l2 == 0:
            return data
        total = torch.diff(block.indptr).double()[:, None]
        kept = row_counts(block.indptr, ~block.erased).double()[:, None]
        return data + self._model.l2 * (total * before.rows - kept * after.rows)

    def _outer_residual(self, positions: Tensor, embeddings: Tensor) -> Tensor:
        """The residual (k, d) on rows that did not move, from their edges to rows that did."""
        block = make_block(self._shard, self._erased, positions, self._communicator, self._moves)
        before, after = (self._examples(block, values) for values in (self._shard.embeddings, embeddings))
        return self._kernels.weighted_difference(
            block.indptr, block.col, before.error, before.halo, after.error, after.halo
        )

    def _moving_exchange(self) -> tuple[GatherPlan, Tensor]:
        """The exchange of selected far ends only, and each edge's index in it (-1: its far end does not move).

        What leaves is counted among the selected rows, so that a vector (m, d) can be sent as it is.
        """
        arriving = self._block.plan.rows
        plan = self._communicator.plan(arriving[self._moves[arriving]])
        among_selected = index_of(self.positions, len(self._shard.rows))
        index = index_of(plan.rows, len(self._moves))
        return replace(plan, send=among_selected[plan.send]), index[arriving][self._block.col]


class _Examples:
    """The examples of a block at some embeddings: both ends, scores, errors."""

    def __init__(self, block: Block, rows: Tensor, halo: Tensor, model: Model, kernels: Kernels) -> None:
        self.block, self.rows, self.halo, self.model = block, rows, halo, model
        self.score = kernels.scores(block.indptr, block.col, rows, halo)
        self.error = model.loss.error(self.score, block.label)

    def weight(self) -> Tensor:
        """Curvature of the kept examples' losses by their scores, (e,)."""
        return self.model.loss.curvature(self.score, self.block.label) * self.block.kept


class DirectCurvature:
    """The Gauss-Newton matrix of the kept examples at one point."""

    def __init__(self, objective: DirectObjective, state: _Examples) -> None:
        """Weights and diagonal at a state."""
        self._objective, self._state, self._weight = objective, state, state.weight()
        self._halo = objective.for_products(state.halo)
        self._regulariser = objective.regulariser()
        self.diagonal = objective.diagonal(state, self._weight) + self._regulariser

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector on the selected rows (m, d)."""
        image = self._objective.product(self._state, self._halo, self._weight, vector)
        return image.addcmul_(self._regulariser, vector)
