"""Parameters beside the embedding rows (of a neural scorer): their share in the gradient and the curvature.

Every example reads them, so what the erased examples leave in them is found exactly, but how they should move depends
on all the kept ones: on all of them, or, as the user chooses, on those at the selected rows and a seeded sample of the
others, each with the factor 1 / share. Either way every example is read once, at the row of its first place, and the
matrix stays symmetric and positive semi-definite.

They lie in rows of the embeddings' width after all others (``DenseLayout``), so the solver does not know them from
rows. Sums over examples are formed per virtual partition and added in partition order.

Shapes: e edges of the examples read, m selected rows, p numbers.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.exchange import moving_exchange
from ifru_dist.influence.forward import derivative_along
from ifru_dist.influence.objective import CurvatureKind, RowValues
from ifru_dist.influence.place import Place
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.sampling import uniform
from ifru_dist.influence.shard import DenseLayout, Shard, index_of, row_totals
from ifru_dist.influence.tuple_terms import Chunk, TupleTerms, TupleTermsAt, moving_index
from ifru_dist.models.base import Dense

_DIAGONAL_STRIDE = 16
"""One of so many examples of a chunk is read for squared derivatives: estimates for preconditioner and anchor."""


class DenseReader:
    """Brings the dense parameters from the worker that owns them to all."""

    def __init__(self, shard: Shard, communicator: Communicator) -> None:
        """Agree on the exchange; nothing travels where the model has none."""
        self._layout, self._communicator = shard.dense, communicator
        if self._layout is not None:
            first, count = self._layout.first_row, self._layout.rows
            self._plan = communicator.plan(torch.arange(first, first + count, device=shard.rows.device))

    def at(self, place: Place) -> dict[str, Tensor]:
        """The parameters at a place of the own rows."""
        return self.of(place.everywhere()) if self._layout is not None else {}

    def of(self, values: Tensor) -> dict[str, Tensor]:
        """The parameters among values (n, d) of all own rows."""
        return self._layout.unpack(self._communicator.gather_rows(self._plan, values)) if self._layout else {}


class DenseShare:
    """The examples that the dense parameters of one batch are moved by."""

    def __init__(self, problem: Problem, layout: DenseLayout, positions: Tensor, moves: Tensor, share: float) -> None:
        """Choose the examples.

        Args:
            problem: the batch.
            layout: where the parameters lie.
            positions: (m,) selected rows, the dense ones among them.
            moves: (N,) bool: the rows that any worker selects.
            share: of the kept examples without a selected row that are read, in (0, 1].
        """
        shard, erased, self.layout, self._shard = problem.shard, problem.erased, layout, problem.shard
        self.model, self.loss, self.communicator = problem.model, problem.loss, problem.communicator
        run = shard.edges.of(problem.all_rows)
        near = torch.repeat_interleave(problem.all_rows, torch.diff(run.indptr))
        assert run.place is not None
        certain = moves[shard.rows[near]] | moves[run.others].any(dim=1) | erased[run.example]
        read = (run.place == 0) & (certain | (uniform(run.example) < share))
        chosen = run.only(read)
        own = torch.nonzero(torch.diff(chosen.indptr)).flatten()
        self.block = problem.block(own, chosen.of(own))
        sampled = (~certain[read]).double()
        scale = 1.0 + sampled * (1.0 / share - 1.0)
        self.factor, self.gone, self.kept = (
            part * scale for part in (self.block.factor, self.block.gone, self.block.kept)
        )
        self.terms = TupleTerms(self.block, self.model, self.loss)
        self.moving = moving_exchange(self.block, positions, moves, shard, self.communicator)
        among_selected = index_of(positions, len(shard.rows))
        near_moving = among_selected[self.block.positions][self.terms.near]
        self.index = moving_index(self.block, near_moving, self.moving.index, len(positions))
        self.reader = DenseReader(shard, self.communicator)
        self.held = torch.nonzero(shard.is_dense[positions]).flatten()
        """Where the own ones of the parameters' rows stand among the selected rows."""
        self._selected = positions
        # Partitions are numbered from 0; no worker's rows are in one beyond the last one's.
        self._partitions = int(self.communicator.all_gather(shard.partition[-1:] + 1).max())

    @classmethod
    def of_batch(cls, problem: Problem, positions: Tensor, moves: Tensor) -> Self | None:
        """The share of a batch; None where the parameters do not move."""
        layout, options = problem.shard.dense, problem.options
        if layout is None or options.dense == "frozen":
            return None
        return cls(problem, layout, positions, moves, 1.0 if options.dense == "full" else options.dense_share)

    def at(self, place: Place) -> "DenseAt":
        """The examples at a place of the own rows."""
        embeddings = place.everywhere()
        halo = self.communicator.gather_rows(self.block.plan, embeddings)
        dense = self.reader.of(embeddings)
        return DenseAt(self, self.terms.at(embeddings[self.block.positions], halo, dense))

    def add(self, target: Tensor, numbers: Callable[[Chunk], Tensor]) -> None:
        """Add sums (p,) of chunks' numbers to the parameters' rows of a vector (m, d) on the selected rows."""
        sums = target.new_zeros(self._partitions, self.layout.size)
        for chunk in self.terms.chunks:
            sums[self.block.partition[chunk.rows.start]] += numbers(chunk)
        # A partition is one worker's, so adding the workers' sums is exact; then they are added in partition order.
        total = self.communicator.all_reduce(sums.flatten()).view_as(sums).cumsum(0)[-1]
        if len(self.held):
            target[self.held] += self.layout.as_rows(total)


class DenseAt:
    """The examples of a share at one place."""

    def __init__(self, share: DenseShare, state: TupleTermsAt) -> None:
        """With their scores and errors."""
        self.share, self.state = share, state

    def add_gradient(self, target: Tensor, weight: Tensor) -> None:
        """Add the gradient of the losses, with weights (e,), to the parameters' rows of a vector (m, d)."""
        self.share.add(target, lambda chunk: self._gradient(chunk, weight))

    def add_less(self, target: Tensor, after: "DenseAt") -> None:
        """Add the gradient of all examples here less that of the kept ones at another place, chunk by chunk."""
        share = self.share
        share.add(target, lambda chunk: self._gradient(chunk, share.factor) - after._gradient(chunk, share.kept))

    def loss_change(self, before: "DenseAt") -> RowValues:
        """Changes of the kept examples' losses, each once."""
        block = self.share.block
        change = (self.state.loss() - before.state.loss()) * self.share.kept
        return RowValues(block.positions, row_totals(block.indptr, change)[:, None])

    def add_squares(self, target: Tensor) -> None:
        """Add an estimate of the sum of squared gradients of all examples to the parameters' rows of (m, d).

        Of the loss that training had, whatever the temperature.
        """
        share = self.share
        weight = share.model.loss.error(self.state.score, share.block.label).square() * share.factor
        share.add(target, lambda chunk: self.squares(chunk, weight[chunk.edges]))

    def curvature(self, kind: CurvatureKind) -> "DenseCurvature":
        """Second derivative of the kept examples."""
        return DenseCurvature(self, kind)

    def _gradient(self, chunk: Chunk, weight: Tensor) -> Tensor:
        """Gradient (p,) of a chunk's losses."""
        return self.pulled(chunk, self.state.error[chunk.edges] * weight[chunk.edges])

    def pulled(self, chunk: Chunk, factor: Tensor) -> Tensor:
        """Derivatives (p,) of the sum of factor (edges,) * score."""
        rows = self.state.gathered(chunk)
        model = self.share.model
        return self._flat(
            torch.func.grad(lambda dense: (factor * model.score(rows, dense)).sum())(dict(self.state.dense))
        )

    def turned(self, chunk: Chunk, factor: Tensor, change: Tensor, dense: Dense) -> Tensor:
        """Derivatives of ``pulled`` along a change of the rows (edges, a, d) and of the parameters, (p,)."""
        model = self.share.model

        def pulled(rows: Tensor, own: dict[str, Tensor]) -> dict[str, Tensor]:
            return torch.func.grad(lambda inner: (factor * model.score(rows, inner)).sum())(own)

        place = (self.state.gathered(chunk), dict(self.state.dense))
        return self._flat(derivative_along(pulled, place, (change, dict(dense))))

    def squares(self, chunk: Chunk, weight: Tensor) -> Tensor:
        """Sum of weight (edges,) * squared derivatives (p,) of the scores, from some of the examples."""
        rows, weight = self.state.gathered(chunk)[::_DIAGONAL_STRIDE], weight[::_DIAGONAL_STRIDE]
        scale = (chunk.edges.stop - chunk.edges.start) / len(rows)
        held, model = dict(self.state.dense), self.share.model
        each = torch.func.vmap(torch.func.grad(lambda dense, row: model.score(row[None], dense)[0]), (None, 0))
        by_name = each(held, rows)
        return self._flat(
            {name: scale * (weight @ part.reshape(len(rows), -1).square()) for name, part in by_name.items()}
        )

    def _flat(self, dense: Dense) -> Tensor:
        """Numbers (p,) in the order of the layout."""
        return torch.cat([dense[name].flatten() for name in self.share.layout.shapes])


class DenseCurvature:
    """The rows of the Gauss-Newton matrix, or of the Hessian, that belong to the dense parameters."""

    def __init__(self, at: DenseAt, kind: CurvatureKind) -> None:
        """At one place."""
        self._at, share = at, at.share
        self._weight = share.loss.curvature(at.state.score, share.block.label) * share.kept
        self._error = at.state.error * share.kept if kind == "hessian" else None

    def add_diagonal(self, target: Tensor) -> None:
        """Add an estimate of the Gauss-Newton diagonal to the parameters' rows of (m, d)."""
        self._at.share.add(target, lambda chunk: self._at.squares(chunk, self._weight[chunk.edges]))

    def change_of(self, vector: Tensor) -> dict[str, Tensor]:
        """The parameters' part of a vector (m, d) on the selected rows."""
        share = self._at.share
        everywhere = vector.new_zeros(len(share._shard.rows), vector.shape[1])
        everywhere[share._selected[share.held]] = vector[share.held]
        return share.reader.of(everywhere)

    def add_product(self, target: Tensor, vector: Tensor, dense: Dense) -> None:
        """Add the product with a vector (m, d), whose part on the parameters is ``dense``, to their rows."""
        share = self._at.share
        arriving = share.communicator.gather_rows(share.moving.plan, vector)
        values = torch.cat([vector, arriving, vector.new_zeros(1, vector.shape[1])])
        share.add(target, lambda chunk: self._given(chunk, values[share.index[chunk.edges]], dense))

    def _given(self, chunk: Chunk, change: Tensor, dense: Dense) -> Tensor:
        """A chunk's part (p,) for a change of its rows (edges, a, d) and of the parameters."""
        state, weight = self._at.state, self._weight[chunk.edges]
        scores = (state.jacobian(chunk) * change).sum((1, 2)) + state.score_change(chunk, dense)
        given = self._at.pulled(chunk, weight * scores)
        if self._error is not None:
            given = given + self._at.turned(chunk, self._error[chunk.edges], change, dense)
        return given
