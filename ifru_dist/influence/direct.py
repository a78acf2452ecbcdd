"""Models whose score reads the embedding rows themselves: the influence of an example is direct, at its own rows."""

from typing import Self

import torch
from torch import Tensor

from ifru_dist.influence.dense import DenseReader, DenseShare
from ifru_dist.influence.exchange import MovingExchange, moving_exchange, moving_mask
from ifru_dist.influence.objective import CurvatureKind, Outside, Point, RowValues
from ifru_dist.influence.place import Place
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.sampling import within_budget
from ifru_dist.influence.shard import Block, row_totals
from ifru_dist.influence.terms import Terms, TermsAt, WholeTerms


class DirectObjective:
    """A batch for a model without propagation; reads only the selected rows' edges while it solves.

    Where dense parameters move, too, examples of other rows are read for them: all, or a sample (DenseShare).
    """

    def __init__(self, problem: Problem, selected: Tensor) -> None:
        """Let rows (n,) bool move, none that loses all its examples."""
        self.problem, shard, model = problem, problem.shard, problem.model
        communicator, options = problem.communicator, problem.options
        self.dtype = options.dtype if model.dot_product else torch.float64
        self.positions = torch.nonzero(selected).flatten()
        self.block = problem.block(self.positions)
        self._terms = problem.terms(self.block)
        own = shard.is_dense[self.positions].double()
        row_decay = model.l2_dense * own + model.l2_row * (1 - own)
        self.ridge = (model.l2 * row_totals(self.block.indptr, self.block.kept) + row_decay)[:, None]
        self._start_ridge = (model.l2 * row_totals(self.block.indptr, self.block.factor) + row_decay)[:, None]
        self.lost_ridge = (model.l2 * row_totals(self.block.indptr, self.block.gone))[:, None]
        self._moves = moving_mask(shard, self.positions, communicator)
        self.moving = moving_exchange(self.block, self.positions, self._moves, shard, communicator)
        self._dense = DenseReader(shard, communicator)
        self.dense = DenseShare.of_batch(problem, self.positions, self._moves)
        self.read, self.read_edges = within_budget(
            self.block, shard.degrees, self._moves, communicator, options.edge_budget
        )
        self.prunes = self.read is not self.block
        dense_edges = 0 if self.dense is None else len(self.dense.block.label)
        self.edges_per_product = len(self.read.label) + dense_edges
        self.edges_per_residual = 2 * (len(self.block.label) + dense_edges)
        self._read_terms = self._terms if self.read is self.block else problem.terms(self.read)
        self.before = self._started(self.block, self._terms)
        start = Place(shard.embeddings, self.positions)
        self.dense_before = None if self.dense is None else self.dense.at(start)
        self._tilt: Tensor | None = None
        self._fringe: tuple[Block, Terms, WholeTerms, MovingExchange] | None = None

    def at(self, place: Place) -> "DirectPoint":
        """The examples of the selected rows; only rows that moved travel."""
        if place.moved is None:
            return DirectPoint(self, place, self.before)
        arriving = self.problem.communicator.gather_rows(self.moving.plan, place.rows)
        dense = self._dense.at(place)
        return DirectPoint(self, place, self._terms.moved(self.before, place.rows, arriving, self.moving, dense))

    def start_gradient(self) -> Tensor:
        """Gradient of all examples before the batch, regularisers included, (m, d)."""
        if self._tilt is None:
            self._tilt = self.before.gradient().addcmul_(self._start_ridge, self.before.rows)
            if self.dense_before is not None:
                self.dense_before.add_gradient(self._tilt, self.dense_before.share.factor)
        return self._tilt

    def start_squares(self, *, everywhere: bool = True) -> Tensor:
        """Of all own rows, whether selected or not, for those may enter later; or of the selected ones, 0 elsewhere.

        Reads all edges of these rows once.
        """
        problem, shard, block, at = self.problem, self.problem.shard, self.block, self.before
        if everywhere or problem.options.temperature != 1:
            block = problem.block(problem.all_rows) if everywhere else block
            at = self._started(block, problem.untempered_terms(block))
        squares = torch.zeros_like(shard.embeddings, dtype=torch.float64)
        squares[block.positions] = at.squares()
        if self.dense_before is not None:
            selected = squares[self.positions]
            self.dense_before.add_squares(selected)
            squares[self.positions] = selected
        columns = torch.full_like(squares[:, 0], squares.shape[1])
        if shard.dense is not None:  # the last of their rows is filled up with zeros
            columns[shard.is_dense] = shard.dense.filled(shard.rows[shard.is_dense]).double()
        return squares.sum(dim=1) / columns

    def start_residual(self) -> RowValues:
        """The residual before the update: not zero only at the endpoints, all of which are selected, and the dense."""
        data = self.before.gone_gradient().addcmul(self.lost_ridge, self.before.rows)
        if self.dense_before is not None:
            self.dense_before.add_gradient(data, self.dense_before.share.gone)
        return RowValues(self.positions, data)

    def outside(self, point: Point) -> Outside:
        """Neighbours of the selected rows, from their edges to rows that moved.

        The diagonal is that of those edges, scaled up to all the edges of a row: reading the others would mean reading
        the neighbours' neighbours. Where dense parameters move, every row is a neighbour.
        """
        if self._fringe is None:
            block = self._fringe_block()
            terms = self.problem.terms(block)
            every = moving_exchange(block, self.positions, self._moves, self.problem.shard, self.problem.communicator)
            self._fringe = block, terms, self._started(block, terms), every
        block, terms, before, moving = self._fringe
        shard, model, positions = self.problem.shard, self.problem.model, block.positions
        arriving = self.problem.communicator.gather_rows(moving.plan, point.place.rows)
        after = terms.moved(before, before.rows, arriving, moving, self._dense.at(point.place))

        def diagonal() -> Tensor:
            read = after.curvature("gauss-newton", self.dtype).diagonal
            edges, seen = shard.degrees[positions].double(), torch.diff(block.indptr).double().clamp(min=1)
            ridge = model.l2 * shard.mass[positions] + model.l2_row
            return (read * (edges / seen)[:, None]).add_(ridge[:, None])

        return Outside(positions, before.less(after), diagonal)

    def _fringe_block(self) -> Block:
        """The rows at which something changes though they do not move, with the edges that change.

        Emptied rows are reset, not solved for; all other rows outside keep all their examples, so only the terms of
        edges to rows that moved have changed, and the regularisers' have not.
        """
        shard = self.problem.shard
        fringe = torch.zeros(len(shard.rows), dtype=torch.bool, device=shard.rows.device)
        fringe[self.block.plan.send] = True
        if self.dense is not None:
            fringe[:] = True
        fringe[self.positions] = False
        fringe &= self.problem.lost == 0
        fringe &= ~shard.is_dense
        positions = torch.nonzero(fringe).flatten()
        if self.dense is not None:
            return self.problem.block(positions)
        return self.problem.block(positions, shard.edges.of(positions, near=self._moves))

    def selecting(self, selected: Tensor) -> Self:
        """The same batch with other selected rows, (n,) bool."""
        return type(self)(self.problem, selected)

    def read_state(self, point: "DirectPoint") -> TermsAt:
        """The examples that pruned products read, at a point."""
        return self._read_terms.at(point.state.rows, point.state.halo, self._dense.at(point.place))

    def _started(self, block: Block, terms: Terms) -> WholeTerms:
        """The examples of a block before the batch; closed forms read the far ends as products do."""
        shard = self.problem.shard
        halo = self.problem.communicator.gather_rows(block.plan, shard.embeddings).to(self.dtype)
        dense = self._dense.at(Place(shard.embeddings, self.positions))
        return terms.at(shard.embeddings.index_select(0, block.positions).double(), halo, dense)


class DirectPoint:
    """The selected rows' examples at some embeddings."""

    def __init__(self, objective: DirectObjective, place: Place, state: TermsAt) -> None:
        """The objective's examples at a place."""
        self._objective, self.place, self.state = objective, place, state
        self.dense = (
            objective.dense_before if place.moved is None or objective.dense is None else objective.dense.at(place)
        )
        self.outputs: Tensor | None = None

    def residual(self) -> Tensor:
        """Gradient of all examples before minus that of the kept ones now, formed edge by edge, (m, d)."""
        objective = self._objective
        if self.state is objective.before:
            return objective.start_residual().values
        before, rows = objective.before, self.state.rows
        data = before.less(self.state).addcmul(objective.lost_ridge, before.rows)
        data.addcmul_(objective.ridge, before.rows - rows)
        if self.dense is not None and objective.dense_before is not None:
            objective.dense_before.add_less(data, self.dense)
        return data

    def curvature(self, kind: CurvatureKind, *, exact: bool = False) -> "DirectCurvature":
        """Second derivative of the kept examples on the selected rows."""
        return DirectCurvature(self._objective, self, kind, pruned=self._objective.prunes and not exact)

    def loss_change(self) -> RowValues:
        """Changes of the kept examples' losses: an example at several selected rows counts in equal shares at each.

        Where dense parameters move, every example counts once, at the row of its first place.
        """
        objective = self._objective
        if self.dense is not None and objective.dense_before is not None:
            return self.dense.loss_change(objective.dense_before)
        return RowValues(objective.positions, self.state.loss_change(objective.before, objective.moving))


class DirectCurvature:
    """The Gauss-Newton matrix or the Hessian of the kept examples at one point."""

    def __init__(self, objective: DirectObjective, point: DirectPoint, kind: CurvatureKind, *, pruned: bool) -> None:
        """Weights and diagonal at a point."""
        self._objective, index = objective, objective.moving.index
        state = objective.read_state(point) if pruned else point.state
        self._moving = index[objective.read_edges] if pruned else index
        self._terms = state.curvature(kind, objective.dtype)
        self._shift: tuple[Tensor | None, Tensor] | None = None
        self._dense = None if point.dense is None else point.dense.curvature(kind)
        self.diagonal = self._terms.diagonal + objective.ridge
        if self._dense is not None:
            self._dense.add_diagonal(self.diagonal)

    def blocks(self, chosen: Tensor) -> Tensor | None:
        """The d x d blocks of the Gauss-Newton matrix at the chosen rows (b,), (b, d, d)."""
        data = self._terms.blocks(chosen)
        if data is not None:
            data.diagonal(dim1=1, dim2=2).add_(self._objective.ridge[chosen])
        return data

    def product(self, vector: Tensor, damping: Tensor | None = None) -> Tensor:
        """See Curvature; only selected rows travel."""
        objective, shift = self._objective, self._shifted(damping)
        arriving = objective.problem.communicator.gather_rows(objective.moving.plan, vector)
        if self._dense is None:
            return self._terms.product(vector, arriving, self._moving, shift=shift)
        change = self._dense.change_of(vector)
        image = self._terms.product(vector, arriving, self._moving, change, shift)
        self._dense.add_product(image, vector, change)
        return image

    def _shifted(self, damping: Tensor | None) -> Tensor:
        """The regularisers' factor with a damping (m, 1) added; that of the last one asked for is kept."""
        if self._shift is None or self._shift[0] is not damping:
            ridge = self._objective.ridge if damping is None else self._objective.ridge + damping
            self._shift = damping, ridge.to(self._objective.dtype)
        return self._shift[1]
