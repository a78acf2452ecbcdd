"""Graph models: outputs F = sum_k w_k A^k E, so erasing positives also changes the terms of kept examples (spillover).

The residual is exact: every output that can change and every example that reads one take part in it, whatever rows
move (``ifru_dist.influence.neighbourhood``). The curvature product is exact, too, or pruned
(``ifru_dist.influence.pruned``).

Shapes: n own rows, m selected ones, c own rows of the neighbourhood, d columns.
"""

from typing import Self

import torch
from torch import Tensor

from ifru_dist.influence.dense import DenseReader
from ifru_dist.influence.exchange import MovingExchange, moving_exchange
from ifru_dist.influence.neighbourhood import GraphChange, Neighbourhood
from ifru_dist.influence.objective import Curvature, CurvatureKind, Outside, Point, RowValues
from ifru_dist.influence.place import Place
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.propagation import spread_diagonal
from ifru_dist.influence.pruned import PrunedCurvature, PrunedTerms
from ifru_dist.influence.shard import Block, row_totals
from ifru_dist.influence.terms import Terms, TermsAt, WholeTerms


class PropagatedObjective:
    """A batch for a model on propagated embeddings. Dense parameters stay as they are."""

    dtype = torch.float64

    def __init__(self, problem: Problem, selected: Tensor, graph: GraphChange | None = None) -> None:
        """Let rows (n,) bool move, none that loses all its examples. ``options.product`` prunes products.

        The graph before and after the batch may be known already.
        """
        self.problem, shard, model = problem, problem.shard, problem.model
        self.graph = GraphChange(problem) if graph is None else graph
        self.near = near = Neighbourhood(self.graph, problem, selected | (problem.lost > 0))
        self.positions = torch.nonzero(selected).flatten()
        self.selected = near.places(self.positions)
        self.block = block = problem.block(near.positions)
        self._dense = DenseReader(shard, problem.communicator)
        self._terms = problem.terms(block)
        self.moving = moving_exchange(block, near.positions, near.members, shard, problem.communicator)
        self.start = self._started(block, self._terms)
        self._row_decay = model.l2_row * (~shard.is_dense).double()[:, None]
        self.ridge = self._ridge(block, block.kept)[self.selected]
        embeddings = shard.embeddings.index_select(0, near.positions).double()
        self._output_change = near.graph_change(embeddings)
        self.lost = (model.l2 * row_totals(block.indptr, block.gone)[:, None] * embeddings).sub_(
            near.graph_change(self.start.gradient())
        )
        """(c, d) of the residual: what the erased examples' regularisers gave, and what the gradient at the outputs
        before gave by the graph before and does not by the graph after."""
        self._fringe: tuple[Block, Terms, WholeTerms, MovingExchange] | None = None
        self.prunes = problem.options.product == "pruned"
        self.pruned = PrunedTerms(problem, self.positions, self.graph, near) if self.prunes else None
        walks = 2 * (len(model.layer_weights) - 1) * near.edges
        self.edges_per_product = len(block.label) + walks if self.pruned is None else self.pruned.edges_per_product
        self.edges_per_residual = 2 * len(block.label) + walks
        self.anchor = self._moved(None)
        self._anchor_residual: Tensor | None = None

    def at(self, place: Place) -> "PropagatedPoint":
        """The examples of the neighbourhood at a place of the selected rows."""
        return PropagatedPoint(self, place, self.anchor if place.moved is None else self._moved(place.change))

    def start_gradient(self) -> Tensor:
        """Gradient of all examples before the batch on the graph before, regularisers included, (m, d)."""
        gradient = self.near.before.apply(self.start.gradient()).index_select(0, self.selected)
        ridge = self._ridge(self.block, self.block.factor)[self.selected]
        return gradient.addcmul_(ridge, Place(self.problem.shard.embeddings, self.positions).start)

    def start_squares(self, *, everywhere: bool = True) -> Tensor:
        """By the outputs, spread over the embeddings without terms between layers."""
        shard, block = self.problem.shard, self.block
        if everywhere:
            block = self.problem.block(self.problem.all_rows)
            squares = self._started(block, self.problem.untempered_terms(block)).squares()
            return spread_diagonal(self.graph.before, squares).mean(dim=1)
        at = self.start
        if self.problem.options.temperature != 1:
            at = self._started(block, self.problem.untempered_terms(block))
        squares = spread_diagonal(self.near.before, at.squares()).mean(dim=1)
        result = torch.zeros(len(shard.rows), dtype=torch.float64, device=squares.device)
        result[self.positions] = squares[self.selected]
        return result

    def start_residual(self) -> RowValues:
        """The residual before the update: direct and spillover influence on all rows but those that are reset."""
        return RowValues(self._solved, self.anchor_residual().index_select(0, self._solved))

    def outside(self, point: Point) -> Outside:
        """The residual and the diagonal on all rows that are not selected."""
        assert isinstance(point, PropagatedPoint)
        free = torch.zeros(len(self.problem.shard.rows), dtype=torch.bool, device=self.problem.erased.device)
        free[self._solved] = True
        free[self.positions] = False
        positions = torch.nonzero(free).flatten()
        return Outside(positions, point.everywhere().index_select(0, positions), lambda: point.diagonal()[positions])

    def selecting(self, selected: Tensor) -> Self:
        """The same batch with other selected rows, (n,) bool."""
        return type(self)(self.problem, selected, self.graph)

    def anchor_residual(self) -> Tensor:
        """The residual before the update on all own rows, (n, d)."""
        if self._anchor_residual is None:
            start = Place(self.problem.shard.embeddings, self.positions)
            self._anchor_residual = self.difference(start, self.anchor)
        return self._anchor_residual

    def difference(self, place: Place, state: TermsAt) -> Tensor:
        """The residual at a place on all own rows (n, d), the examples of other rows than the near ones read for it."""
        change = torch.zeros_like(self.graph.outputs)
        change[self.near.positions] = self.start.less(state)
        if self._fringe is None:
            self._fringe = self._outer_examples()
        block, terms, start, moving = self._fringe
        arriving = self.problem.communicator.gather_rows(moving.plan, state.rows)
        change[block.positions] = start.less(terms.moved(start, start.rows, arriving, moving, self.dense))
        data = self.graph.after.apply(change)
        data.index_add_(0, self.near.positions, self.lost)
        return data if place.moved is None else data.index_add_(0, self.positions, -self.ridge * place.change)

    def outputs(self, place: Place) -> Tensor:
        """(n, d): what a place's embeddings propagate to on the graph after."""
        return self.graph.after.apply(place.everywhere())

    def diagonal(self, place: Place) -> Tensor:
        """Approximate Gauss-Newton diagonal on all own rows (n, d): each layer by itself, no terms between layers."""
        block, outputs = self.problem.block(self.problem.all_rows), self.outputs(place)
        halo = self.problem.communicator.gather_rows(block.plan, outputs)
        terms = self.problem.terms(block).at(outputs, halo, self.dense).curvature("gauss-newton", torch.float64)
        return spread_diagonal(self.graph.after, terms.diagonal).add_(self._ridge(block, block.kept))

    def near_values(self, values: Tensor) -> Tensor:
        """Values (m, d) of the selected rows among zeros, (c, d)."""
        spread = values.new_zeros(len(self.near.positions), values.shape[1])
        return spread.index_copy_(0, self.selected, values)

    @property
    def dense(self) -> dict[str, Tensor]:
        """The dense parameters, which stay."""
        return self._dense.at(Place(self.problem.shard.embeddings, self.positions))

    def _moved(self, change: Tensor | None) -> TermsAt:
        """The near examples at the outputs on the graph after, the selected rows having moved by (m, d)."""
        rows = self.start.rows + self._output_change
        if change is not None:
            rows.add_(self.near.after.apply(self.near_values(change)))
        arriving = self.problem.communicator.gather_rows(self.moving.plan, rows)
        return self._terms.moved(self.start, rows, arriving, self.moving, self.dense)

    def _started(self, block: Block, terms: Terms) -> WholeTerms:
        """The examples of a block before the batch."""
        outputs = self.graph.outputs
        halo = self.problem.communicator.gather_rows(block.plan, outputs)
        return terms.at(outputs.index_select(0, block.positions), halo, self.dense)

    def _outer_examples(self) -> tuple[Block, Terms, WholeTerms, MovingExchange]:
        """What other rows' examples read near outputs: they keep theirs, and the other examples are as they were."""
        problem, near = self.problem, self.near
        outer = torch.zeros(len(problem.shard.rows), dtype=torch.bool, device=near.positions.device)
        outer[self.block.plan.send] = True
        outer[near.positions] = False
        positions = torch.nonzero(outer).flatten()
        block = problem.block(positions, problem.shard.edges.of(positions, near=near.members))
        terms = problem.terms(block)
        moving = moving_exchange(block, near.positions, near.members, problem.shard, problem.communicator)
        return block, terms, self._started(block, terms), moving

    def _ridge(self, block: Block, factor: Tensor) -> Tensor:
        """The regularisers' factor at a block's rows by the factors (e,) of its examples, (rows, 1)."""
        totals = row_totals(block.indptr, factor)[:, None]
        return self.problem.model.l2 * totals + self._row_decay.index_select(0, block.positions)

    @property
    def _solved(self) -> Tensor:
        """(k,) positions of all rows but those that lost every example, and the dense parameters'."""
        shard, lost = self.problem.shard, self.problem.lost
        return torch.nonzero(((lost < shard.degrees) | (shard.degrees == 0)) & ~shard.is_dense).flatten()


class PropagatedPoint:
    """The kept examples at some embeddings, on the graph after."""

    def __init__(self, objective: PropagatedObjective, place: Place, state: TermsAt) -> None:
        """The near examples at a place of the selected rows."""
        self._objective, self.place, self.state = objective, place, state
        self._everywhere: Tensor | None = None

    def residual(self) -> Tensor:
        """All examples on the graph before minus the kept ones on the graph after, formed per edge, (m, d)."""
        objective, near = self._objective, self._objective.near
        data = near.after.apply(objective.start.less(self.state)).add_(objective.lost)
        data = data.index_select(0, objective.selected)
        return data if self.place.moved is None else data.addcmul_(objective.ridge, -self.place.change)

    def everywhere(self) -> Tensor:
        """The residual on all own rows (n, d)."""
        if self._everywhere is None:
            objective = self._objective
            at_start = self.state is objective.anchor
            self._everywhere = objective.anchor_residual() if at_start else objective.difference(self.place, self.state)
        return self._everywhere

    def curvature(self, kind: CurvatureKind, *, exact: bool = False) -> Curvature:
        """Second derivative on the selected rows."""
        objective = self._objective
        if objective.pruned is None or exact:
            return PropagatedCurvature(objective, self, kind)
        return PrunedCurvature(
            objective.pruned, objective.pruned.at(self.state.rows, objective.dense), objective.ridge, kind
        )

    def loss_change(self) -> RowValues:
        """Changes of the kept examples' losses since E0 on the graph after, in equal shares at each near row."""
        objective = self._objective
        now, anchor = (state.loss_change(objective.start, objective.moving) for state in (self.state, objective.anchor))
        return RowValues(objective.near.positions, now - anchor)

    def diagonal(self) -> Tensor:
        """Approximate Gauss-Newton diagonal on all own rows (n, d)."""
        return self._objective.diagonal(self.place)


class PropagatedCurvature:
    """The Gauss-Newton matrix or the Hessian of the kept examples on the graph after, at one point."""

    def __init__(self, objective: PropagatedObjective, point: PropagatedPoint, kind: CurvatureKind) -> None:
        """Weights and preconditioner at a point."""
        self._objective = objective
        self._terms = point.state.curvature(kind, torch.float64)
        spread = spread_diagonal(objective.near.after, self._terms.diagonal)
        self.diagonal = spread.index_select(0, objective.selected).add_(objective.ridge)

    def blocks(self, chosen: Tensor) -> None:
        """None: an output depends on rows far away, so a block of the embeddings would have to read them all."""

    def product(self, vector: Tensor, damping: Tensor | None = None) -> Tensor:
        """P^T H P vector + the regularisers' term on the selected rows (m, d), where H is that of the outputs."""
        objective, after = self._objective, self._objective.near.after
        change = after.apply(objective.near_values(vector))
        arriving = objective.problem.communicator.gather_rows(objective.moving.plan, change)
        image = self._terms.product(change, arriving, objective.moving.index)
        ridge = objective.ridge if damping is None else objective.ridge + damping
        return after.apply(image).index_select(0, objective.selected).addcmul_(ridge, vector)
