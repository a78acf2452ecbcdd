"""Graph models: outputs F = sum_k w_k A^k E, so erasing positives also changes the terms of kept examples (spillover).

The exact product: every output and every example takes part, whatever rows move. Meant for data that fits; nothing is
pruned, so nothing is approximated.
"""

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import RowValues
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
        self._shard, self._model = shard, model
        self._communicator, self._kernels = communicator, kernels
        self.positions = torch.nonzero(selected).flatten()
        everything = torch.arange(len(shard.rows), device=erased.device)
        self._block = make_block(shard, erased, everything, communicator)
        positive = only_edges(self._block, self._block.label > 0.5)
        graphs = (torch.ones_like(positive.erased), ~positive.erased)
        self._before, self._after = (
            ShardedPropagation(positive, present, model.layer_weights, communicator, kernels) for present in graphs
        )
        self._kept_count = row_counts(self._block.indptr, ~erased).double()[:, None]
        self._start = self._outputs(self._before, shard.embeddings)
        self._start_error = model.loss.error(self._start[2], self._block.label)

    def linearise(self, embeddings: Tensor) -> tuple[Tensor, "PropagatedCurvature"]:
        """The residual and the Gauss-Newton matrix on the selected rows (m, d)."""
        outputs, arriving, score = state = self._outputs(self._after, embeddings)
        return self._residual(embeddings, state)[self.positions], PropagatedCurvature(self, outputs, arriving, score)

    def start_residual(self) -> RowValues:
        """The residual before the update: direct and spillover influence on all rows."""
        return self.end_residual(self._shard.embeddings)

    def end_residual(self, embeddings: Tensor) -> RowValues:
        """The residual on all rows but those that lost every example, which are reset."""
        solved = torch.nonzero((self._kept_count[:, 0] > 0) | (self._shard.degrees == 0)).flatten()
        return RowValues(solved, self._residual(embeddings, self._outputs(self._after, embeddings))[solved])

    def weight(self, score: Tensor) -> Tensor:
        """Curvature of the kept examples' losses by their scores, (e,)."""
        return self._model.loss.curvature(score, self._block.label) * self._block.kept

    def diagonal(self, arriving: Tensor, weight: Tensor) -> Tensor:
        """Approximate diagonal (m, d): of each layer by itself, without the terms between layers."""
        layer = self._kernels.weighted_sum(self._block.indptr, self._block.col, weight, arriving.square())
        total = self._after.weights[0] ** 2 * layer
        for share in self._after.weights[1:]:
            layer = self._after.squared_layer(layer)
            total = total + share**2 * layer
        return (total + self._model.l2 * self._kept_count)[self.positions]

    def product(self, outputs: Tensor, arriving: Tensor, weight: Tensor, vector: Tensor) -> Tensor:
        """P^T H P vector + L2 term on the selected rows (m, d), where H is the outputs' Gauss-Newton matrix."""
        spread = torch.zeros_like(outputs)
        spread[self.positions] = vector
        change = self._after.apply(spread)
        far = self._communicator.gather_rows(self._block.plan, change)
        block = self._block
        image = self._kernels.gauss_newton(block.indptr, block.col, block.col, weight, outputs, arriving, change, far)
        return (self._after.apply(image) + self._model.l2 * self._kept_count * spread)[self.positions]

    def _outputs(self, propagation: ShardedPropagation, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (n, d), far ends' outputs (h, d) and scores (e,)."""
        outputs = propagation.apply(embeddings)
        arriving = self._communicator.gather_rows(self._block.plan, outputs)
        return outputs, arriving, self._kernels.scores(self._block.indptr, self._block.col, outputs, arriving)

    def _residual(self, embeddings: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Gradient of all examples before, on the graph before, minus that of the kept ones on the graph after."""
        block, kernels = self._block, self._kernels
        halo, error = self._start[1], self._start_error
        halo_after, error_after = state[1], self._model.loss.error(state[2], block.label) * block.kept
        first = kernels.weighted_sum(block.indptr, block.col, error, halo)
        second = kernels.weighted_sum(block.indptr, block.col, error_after, halo_after)
        change = kernels.weighted_difference(block.indptr, block.col, error, halo, error_after, halo_after)
        data = propagated_difference(self._before, first, self._after, second, change, kernels)
        before, after = self._shard.degrees.double()[:, None] * self._shard.embeddings, self._kept_count * embeddings
        return data + self._model.l2 * (before - after)


class PropagatedCurvature:
    """The Gauss-Newton matrix of the kept examples on the graph after, at one point."""

    def __init__(self, objective: PropagatedObjective, outputs: Tensor, arriving: Tensor, score: Tensor) -> None:
        """Weights and preconditioner at outputs (n, d)."""
        self._objective, self._outputs, self._arriving = objective, outputs, arriving
        self._weight = objective.weight(score)
        self.diagonal = objective.diagonal(arriving, self._weight)

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector on the selected rows (m, d)."""
        return self._objective.product(self._outputs, self._arriving, self._weight, vector)
