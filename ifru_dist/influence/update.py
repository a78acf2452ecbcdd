"""One batch on one worker: rows enter in rounds, Newton steps move them, and a certificate says what is left."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ifru_dist.influence.cg import Solution
from ifru_dist.influence.damping import gradient_damping, row_damping
from ifru_dist.influence.direct import DirectObjective
from ifru_dist.influence.importance import endpoints, select_by_degree, select_by_step
from ifru_dist.influence.newton import Goal, TiltedObjective, minimise
from ifru_dist.influence.objective import Objective, Outside, Point, RowValues
from ifru_dist.influence.options import AUTO_ROWS, USABLE, Status
from ifru_dist.influence.outcome import Outcome, Round
from ifru_dist.influence.place import Place
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.propagated import PropagatedObjective
from ifru_dist.influence.reduction import Reduction

_LOOSE = 0.1
"""Tolerance of rounds that others may follow."""
_CONTRACTION = 0.75
"""Share to which a Newton step must shorten the gradient for another to follow, on a model that was stopped early."""
_DIVERGED = 20.0
"""An update that leaves so many times the influence that was there has gone astray, even where it lowered F. After too
many steps 3 to 16 times as much was left, in models stopped early that had come closer to retraining all the same."""
_MARGIN = 0.5
"""Rows enter until the rest is this far under the tolerance: those that enter raise the rest a little as they move."""


def make_objective(problem: Problem, selected: Tensor) -> Objective:
    """The objective of a batch whose selected rows (n,) bool move, for the kind of model that it is for."""
    kind = DirectObjective if len(problem.model.layer_weights) == 1 else PropagatedObjective
    return kind(problem, selected)


class Batch:
    """One batch on one worker, prepared once for any damping. All workers make the same calls."""

    def __init__(self, problem: Problem, partitions: int) -> None:
        """Select the first round's rows and prepare their examples.

        Args:
            problem: The batch; ``solve`` is given the damping.
            partitions: Virtual partitions, the unit in which sums are formed.
        """
        self._clock = self._prepared = _Clock()
        shard, communicator, sent = problem.shard, problem.communicator, problem.communicator.bytes_sent
        self._problem, self._shard, self._options = problem, shard, problem.options
        self._communicator = communicator
        self._reduction = Reduction(communicator, problem.kernels, shard.partition, partitions)
        with self._clock("subgraph"):
            self._selected = self._first_rows()
        with self._clock("gradient"):
            self._objective = make_objective(problem, self._selected)
            start, tilt = self._objective.start_residual(), self._objective.start_gradient()
            squares = self._square(start), self._square(RowValues(self._objective.positions, tilt))
            start2, tilt2, *counts = self._reduction.totals(*squares, *self._counts(self._selected, self._objective))
            self._start_norm, self._tilt_norm = math.sqrt(start2), math.sqrt(tilt2)
            self._start_size = _Size(*map(int, counts))
            self._room = self._row_budget()
            self._squares = None if problem.options.anchor == "degree" else self._start_squares()
        self._bytes_prepared = communicator.bytes_sent - sent
        self.outputs: Tensor | None = None
        """Of a graph model: (n, d) what the last solve's embeddings propagate to, as they are stored."""

    def solve(self, damping: float) -> Outcome:
        """Rounds of Newton steps with c = ``damping``, then the certificate.

        Returns:
            This worker's rows and the common figures. An outcome whose status is not usable must not be committed.
        """
        self._clock, sent = self._prepared.copy(), self._communicator.bytes_sent
        anchor, rounds = self._anchor(damping), list[Round]()
        current = self._stage(self._selected, self._start_size, self._objective, anchor)
        self._descend(current)
        while True:
            wider = self._wider(current, anchor) if current.status in USABLE else None
            if wider is None and current.unfinished:
                self._descend(current)
                continue
            rounds.append(self._round(current, kept=True))
            if wider is None:
                break
            following = self._following(current, wider, anchor)
            # Around a model that was stopped early, rows that enter may move it away from where retraining would go.
            if following.status in USABLE and self._left(following) < self._left(current):
                current = following
                continue
            if current.unfinished:
                self._descend(current)
                rounds[-1] = self._round(current, kept=True)
            rounds.append(self._round(following, kept=False))
            break
        with self._clock("verify"):
            outcome = self._verified(current, rounds)
        self.outputs = current.point.outputs
        sent = self._communicator.bytes_sent - sent + self._bytes_prepared
        return replace(outcome, seconds=dict(self._clock.seconds), bytes_sent=sent)

    def _first_rows(self) -> Tensor:
        """Mask (n,) of the rows of the first round; dense parameters that may move do so from the beginning."""
        options, shard = self._options, self._shard
        chosen, self._emptied = endpoints(shard, self._problem.lost)
        if options.importance == "degree":
            chosen = select_by_degree(
                self._problem,
                hops=options.hops,
                quantile=options.quantile,
                row_budget=options.row_budget if isinstance(options.row_budget, int) else math.inf,
            )
        return chosen if options.dense == "frozen" else chosen | shard.is_dense

    def _start_squares(self) -> Tensor:
        """Sums of squared gradients of all rows that may ever move."""
        return self._objective.start_squares(everywhere=self._start_size.selected < self._room)

    def _anchor(self, damping: float) -> Tensor:
        """Lambda (n,) of all own rows."""
        strength = damping * self._options.anchor_scale
        if self._squares is None:
            return row_damping(strength, self._shard.mass)
        return gradient_damping(strength, self._squares)

    @property
    def _near_stationary(self) -> bool:
        """Whether the model's own gradient is no longer than the influence that is to be removed."""
        return self._tilt_norm <= self._start_norm

    def _row_budget(self) -> float:
        """Rows that may be selected at most, over all workers."""
        budget, count = self._options.row_budget, self._start_size.selected
        if self._options.importance == "degree":
            return count
        if budget == "auto":
            return count * (AUTO_ROWS if self._near_stationary else 1)
        return math.inf if budget == "all" else budget

    def _stage(self, selected: Tensor, size: "_Size", objective: Objective, anchor: Tensor) -> "_Stage":
        """The beginning: rows (n,) bool that may move from the model before the batch."""
        flow = self._options.fixed_steps if self._options.path == "flow" else None
        tilted = TiltedObjective(self._shard, objective, anchor, self._reduction, flow)
        growing = size.selected < self._room and self._options.fixed_steps is None
        unfinished = growing and self._options.tolerance < _LOOSE
        return _Stage(selected, size, tilted, objective.at(tilted.start), loose=unfinished)

    def _following(self, stage: "_Stage", wider: Tensor, anchor: Tensor) -> "_Stage":
        """The next round, with more rows, from where the last one ended."""
        with self._clock("gradient"):
            objective = stage.tilted.objective.selecting(wider)
            size = _Size(*map(int, self._reduction.totals(*self._counts(wider, objective))))
            following = self._stage(wider, size, objective, anchor)
        if self._options.path == "ridge":  # a flow starts anew: it goes on for a given time, for all rows alike
            following.move(stage.point.place.among(following.tilted.objective.positions))
            following.steps_before = stage.steps_before + stage.steps
        self._descend(following)
        if following.unfinished and following.steps == 0:  # nothing to judge the round by yet
            self._descend(following)
        return following

    def _descend(self, stage: "_Stage") -> None:
        """Newton steps: loosely while rows may follow that will change the place again, to the tolerance after that."""
        tolerance = max(self._options.tolerance, _LOOSE) if stage.loose else self._options.tolerance
        goal = Goal(
            norm=tolerance * self._start_norm,
            steps=self._options.max_newton_steps - stage.steps,
            contraction=1.0 if self._near_stationary else _CONTRACTION,
            keep_first=stage.steps + stage.steps_before == 0,
        )
        with self._clock("solve"):
            descent = minimise(stage.tilted, stage.point.place, self._options, goal)
        stage.point, stage.status = descent.point, descent.status
        stage.steps, stage.outside, stage.outside_norm = stage.steps + descent.steps, None, None
        stage.solutions += descent.solutions
        stage.unfinished, stage.loose = stage.loose and stage.status in USABLE, False

    def _wider(self, stage: "_Stage", anchor: Tensor) -> Tensor | None:
        """Mask (n,) of the next round's rows; None when the rest is small enough or the budget is used."""
        count = stage.size.selected
        allowed = self._options.tolerance * self._start_norm
        if count >= self._room or self._outside_norm(stage) <= allowed:
            return None
        with self._clock("subgraph"):
            wider = select_by_step(
                self._shard,
                stage.selected,
                self._outside(stage),
                anchor,
                self._communicator,
                allowed_norm=_MARGIN * allowed,
                row_budget=self._room,
            )
            (total,) = self._reduction.totals(wider.sum().double()[None])
            return wider if total > count else None

    def _outside(self, stage: "_Stage") -> Outside:
        """What is left on the rows that could not move; computed once."""
        if stage.outside is None:
            stage.outside = stage.tilted.objective.outside(stage.point)
        return stage.outside

    def _outside_norm(self, stage: "_Stage") -> float:
        """||r|| on the rows that could not move."""
        if stage.outside_norm is None:
            with self._clock("subgraph"):
                (norm2,) = self._reduction.totals(self._outside_square(stage))
                stage.outside_norm = math.sqrt(norm2)
        return stage.outside_norm

    def _outside_share(self, stage: "_Stage") -> float:
        """||r|| on the rows that could not move, over ||r before||."""
        return self._outside_norm(stage) / self._start_norm if self._start_norm > 0 else 0.0

    def _left(self, stage: "_Stage") -> float:
        """||r|| on all rows."""
        return self._judged(stage)[0]

    def _judged(self, stage: "_Stage") -> tuple[float, float]:
        """||r|| on all rows, and F there less F before the batch."""
        inside = self._square(RowValues(stage.tilted.objective.positions, stage.point.residual()))
        squares = inside, self._outside_square(stage)
        inside2, outside2, *value = self._reduction.totals(*squares, *stage.tilted.value_shares(stage.point))
        stage.outside_norm = math.sqrt(outside2)
        return math.hypot(math.sqrt(inside2), stage.outside_norm), sum(value)

    def _outside_square(self, stage: "_Stage") -> Tensor:
        """What this worker adds to ||r||^2 on the rows that could not move."""
        outside = self._outside(stage)
        return self._square(RowValues(outside.positions, outside.residual))

    def _verified(self, stage: "_Stage", rounds: list[Round]) -> Outcome:
        """The update as it is stored, with its certificate."""
        objective, status, change = stage.tilted.objective, stage.status, 0.0
        if status in USABLE and stage.steps + stage.steps_before > 0:
            place = stage.point.place
            stage.move(place.at(place.rows.to(self._options.storage_dtype).double()))
            left, change = self._judged(stage)
            if 0 <= change < math.inf:
                # Steps only go downhill, so this is the rounding: the influence is too small for the tables to express.
                stage.move(place.back())
                left, change, status = self._left(stage), 0.0, "under_resolution"
        else:
            left = self._left(stage)
        rho = left / self._start_norm if self._start_norm > 0 else 0.0
        dense = self._shard.is_dense[objective.positions]
        last = max(index for index, entry in enumerate(rounds) if entry.kept)
        rounds[last] = replace(rounds[last], residual_outside=self._outside_share(stage))
        if status in USABLE and rho > _DIVERGED:
            status = "diverged"
        return Outcome(
            rows=self._shard.rows[objective.positions[~dense]],
            values=stage.point.place.rows[~dense],
            dense=self._dense_values(stage),
            emptied=self._shard.rows[self._emptied],
            rounds=rounds,
            newton_steps=stage.steps + stage.steps_before,
            stationarity=self._tilt_norm / self._start_norm if self._start_norm > 0 else 0.0,
            relative_residual=stage.solutions[-1].relative_residual if stage.solutions else 0.0,
            status=status if math.isfinite(rho) and math.isfinite(change) else "not_finite",
            objective_change=change,
            influence_residual=rho,
            product_error=self._product_error(stage) if objective.prunes else None,
        )

    def _product_error(self, stage: "_Stage") -> float:
        """What pruning left out of the product with the whole update, relative to the exact product."""
        positions, kind = stage.tilted.objective.positions, self._options.curvature
        update = stage.point.place.change
        exact = stage.point.curvature(kind, exact=True).product(update)
        left_out = exact - stage.point.curvature(kind).product(update)
        whole = self._norm(RowValues(positions, exact))
        return self._norm(RowValues(positions, left_out)) / whole if whole > 0 else 0.0

    def _dense_values(self, stage: "_Stage") -> dict[str, Tensor]:
        """The dense parameters after the batch, where they moved and this worker owns them."""
        shard, dense = self._shard, self._shard.is_dense
        if shard.dense is None or self._options.dense == "frozen" or not bool(dense.any()):
            return {}
        return shard.dense.unpack(stage.point.place.rows[dense[stage.point.place.positions]])

    def _round(self, stage: "_Stage", *, kept: bool) -> Round:
        """The figures of a round."""
        return Round(
            rows=stage.size.rows,
            edges=stage.size.edges,
            edges_per_product=stage.size.products,
            edges_per_residual=stage.size.residuals,
            iterations=[solution.iterations for solution in stage.solutions],
            residual_outside=None if stage.outside is None else self._outside_share(stage),
            kept=kept,
        )

    def _norm(self, residual: RowValues) -> float:
        """Norm over all workers."""
        (norm2,) = self._reduction.totals(self._square(residual))
        return math.sqrt(norm2)

    def _square(self, residual: RowValues) -> Tensor:
        """What this worker adds to a squared norm."""
        return self._reduction.on(residual.positions).share(residual.values, residual.values)

    def _counts(self, selected: Tensor, objective: Objective) -> tuple[Tensor, ...]:
        """What this worker adds to the size of a selection (n,) bool, in the order of ``_Size``."""
        own = selected & ~self._shard.is_dense
        counts = selected.sum(), own.sum(), self._shard.degrees[own].sum()
        read = torch.tensor([objective.edges_per_product, objective.edges_per_residual], device=own.device)
        return torch.split(torch.cat([torch.stack(counts), read]).double(), 1)


@dataclass(frozen=True)
class _Size:
    """How large a selection of rows is over all workers."""

    selected: int
    """Rows, those of dense parameters included."""
    rows: int
    edges: int
    products: int
    """Edges that a product reads."""
    residuals: int


@dataclass
class _Stage:
    """One selection of rows, and where its Newton steps have led."""

    selected: Tensor
    """(n,) bool."""
    size: _Size
    tilted: TiltedObjective
    point: Point
    """The kept examples there."""
    loose: bool
    """Whether the next steps need not go to the tolerance."""
    unfinished: bool = False
    """Whether the last ones did not."""
    steps: int = 0
    steps_before: int = 0
    """Of the rounds before."""
    status: Status = "converged"
    solutions: list[Solution] = field(default_factory=list)
    outside: Outside | None = None
    outside_norm: float | None = None
    """||r|| there."""

    def move(self, place: Place) -> None:
        """Go to another place."""
        self.point, self.outside, self.outside_norm = self.tilted.objective.at(place), None, None


class _Clock:
    """Seconds by phase, added up."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("subgraph", "gradient", "solve", "verify"), 0.0)

    def copy(self) -> "_Clock":
        """Another clock that goes on from here."""
        other = _Clock()
        other.seconds.update(self.seconds)
        return other

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start
