"""Anchored Newton steps on the tilted objective of one batch, with the safeguards that make each of them go downhill.

    F(E) = L(E; D') - <g0, E> + 1/2 ||E - E0||^2_Lambda,   -grad F(E) = r(E) - Lambda (E - E0)

With the path ``flow`` each of N steps instead minimises L(E; D') - <g0, E> + N/2 ||E - E'||^2_Lambda, with E' where the
step before led: implicit steps of the gradient flow that a training stopped early has followed. Lambda does then not
hold the rows to E0 itself, and F is without it.

Only differences F(E) - F(E0) are ever formed. A step that does not lower F is taken again in a smaller trust region,
which is separate from Lambda and plays no part where steps go well.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ifru_dist.influence.cg import Solution, conjugate_gradients
from ifru_dist.influence.objective import Curvature, Objective, Point
from ifru_dist.influence.options import SolveOptions, Status
from ifru_dist.influence.place import Place
from ifru_dist.influence.preconditioner import Preconditioner, make_preconditioner
from ifru_dist.influence.reduction import Reduction
from ifru_dist.influence.shard import Shard

_ACCEPT = 1e-4  # least share of the predicted decrease that a step must bring
_POOR, _GOOD = 0.25, 0.75  # shares of the predicted decrease under and over which the trust region changes
_SHRINK, _GROW = 0.25, 2.0
_MAX_REJECTED = 12  # in a row
_PATIENCE = {"gauss-newton": 1, "hessian": 4}  # steps in a row that may fail to shorten the gradient
_NOTHING = 1e-13  # share of the decrease so far under which a predicted decrease is none
_ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6}  # the same under which the objective's rounding hides it


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Newton steps from one place to another."""

    point: Point
    """The kept examples there."""
    solutions: list[Solution]
    """The linear solve of each step, those of rejected steps included."""
    steps: int
    """Steps from the start to there."""
    status: Status


@dataclass(frozen=True, kw_only=True)
class Goal:
    """When a descent without a given number of steps ends."""

    norm: float
    """||grad F|| that is small enough."""
    steps: int
    """Steps at most."""
    contraction: float = 1.0
    """Share of its length to which a step must bring the gradient for another one to follow."""
    keep_first: bool = True
    """Whether the first step is kept even where it makes the gradient longer."""


class TiltedObjective:
    """F(E) - F(E0) of one batch, and its gradient, over the selected rows."""

    def __init__(
        self, shard: Shard, objective: Objective, damping: Tensor, reduction: Reduction, flow_steps: int | None = None
    ) -> None:
        """``damping`` (n,) is Lambda of the own rows; ``flow_steps``: those of ``flow``, None for ``ridge``."""
        self.objective, self._reduction = objective, reduction
        self.damping = damping[objective.positions][:, None] * (flow_steps or 1)
        self._anchored = flow_steps is None
        self.inner, self.kernels = reduction.on(objective.positions), reduction.kernels
        self.start = Place(shard.embeddings, objective.positions)
        held = self.damping if self._anchored else torch.zeros_like(self.damping)
        self._half = 0.5 * (objective.ridge + held)
        self._slope = objective.ridge * self.start.start - objective.start_gradient()

    def value(self, point: Point) -> float:
        """F(E) - F(E0) at a point."""
        return sum(self.totals(*self.value_shares(point)))

    def value_shares(self, point: Point) -> tuple[Tensor, Tensor]:
        """What this worker adds to F(E) - F(E0) at a point, which is the sum of two totals (``Reduction``)."""
        moved, loss = point.place.change, point.loss_change()
        data = self._reduction.on(loss.positions).share(loss.values, torch.ones_like(loss.values))
        return data, self.inner.share(moved, torch.addcmul(self._slope, self._half, moved))

    def totals(self, *shares: Tensor) -> list[float]:
        """Totals over all workers, in one exchange."""
        return self._reduction.totals(*shares)

    def descent_direction(self, point: Point) -> Tensor:
        """-grad F on the selected rows, (m, d)."""
        residual = point.residual()
        return residual.sub_(self.damping * point.place.change) if self._anchored else residual


@dataclass
class _Stand:
    """A point of a descent with what is known there."""

    point: Point
    value: float
    downhill: Tensor | None = None
    norm: float = math.nan
    steps: int = 0
    matrix: tuple[Curvature, Preconditioner] | None = None


class _Walk:
    """Where a descent stands."""

    def __init__(
        self,
        tilted: TiltedObjective,
        place: Place,
        options: SolveOptions,
        goal: Goal,
    ) -> None:
        self._tilted, self._options, self._goal = tilted, options, goal
        self.solutions: list[Solution] = []
        self._radius = math.inf
        self._taken = self._rejected = self._without_gain = 0
        self._ended: Status | None = None
        self._place = self.best = self._arrive(place)

    def end(self) -> Status | None:
        """Why the descent is over; None while it is not."""
        steps = self._options.fixed_steps
        if self._ended is not None or not math.isfinite(self._place.value):
            return self._ended or "not_finite"
        if steps is None and self._place.norm <= self._goal.norm:
            return "converged"
        if self._taken == steps:
            return self._unless_limited("converged")
        if self._rejected > _MAX_REJECTED:
            return self._stalled()
        return "max_newton_steps" if steps is None and self._taken >= self._goal.steps else None

    def step(self) -> None:
        """Solve for a step and take it if it lowers the objective; otherwise tighten the trust region."""
        solution = self._solve()
        self.solutions.append(solution)
        if not solution.usable:
            self._ended = "not_finite" if solution.status == "not_finite" else "not_positive_definite"
        elif solution.decrease > _ROUNDING[self._tilted.objective.dtype] * abs(self._place.value):
            self._try(solution)
        elif solution.decrease > (_NOTHING if self._options.fixed_steps else 0) * abs(self._place.value):
            self._try_by_gradient(solution)
        else:
            self._ended = "converged"

    def _unless_limited(self, status: Status) -> Status:
        """A status, or that of a linear solve which was cut off: then the limit may be what kept the gradient long."""
        limited = any(solution.status == "max_iterations" for solution in self.solutions)
        return "max_iterations" if limited else status

    def _stalled(self) -> Status:
        """The status where no step leads further down, though the gradient is not small."""
        return "stalled" if self._taken else "no_descent"

    def _try(self, solution: Solution) -> None:
        """Move if the objective falls by enough of what the quadratic model predicts."""
        trial = self._reached(solution)
        share = (self._place.value - trial.value) / solution.decrease
        if not share >= _POOR:  # also where it is not a number
            self._radius = _SHRINK * solution.norm
        elif share > _GOOD and solution.status == "boundary":
            self._radius *= _GROW
        if share > _ACCEPT:
            self._move(trial)
        else:
            self._rejected += 1

    def _try_by_gradient(self, solution: Solution) -> None:
        """Move if the gradient becomes shorter: the objective itself cannot tell so short a step from rounding."""
        trial = self._reached(solution)
        if self._norm(trial) < self._norm(self._place):
            self._move(trial)
        else:
            self._ended = self._stalled()

    def _reached(self, solution: Solution) -> _Stand:
        """The place that a step leads to."""
        place = self._place.point.place
        return self._arrive(place.at(place.rows + solution.value))

    def _move(self, trial: _Stand) -> None:
        """Take a step."""
        self._place, self._taken, self._rejected = trial, self._taken + 1, 0
        trial.steps = self._taken
        self._judge()

    def _judge(self) -> None:
        """Keep the place with the shortest gradient, and end when steps cease to shorten it by enough.

        Around a model that was stopped early the tilted objective has no minimum nearby: it falls on and on, away from
        where retraining would go, and a gradient that grows is the sign of it. The first step of a batch is always
        kept, and so is every step when their number is given.
        """
        share = self._place.norm / self.best.norm if self.best.norm > 0 else math.inf
        first = self._taken == 1 and self._goal.keep_first
        if self._options.fixed_steps is not None or first or share < 1:
            self.best = self._place
        self._without_gain = 0 if share < self._goal.contraction else self._without_gain + 1
        if self._options.fixed_steps is None and self._without_gain >= _PATIENCE[self._options.curvature]:
            self._ended = self._unless_limited("no_contraction")

    def _arrive(self, where: Place) -> _Stand:
        """A place, with the length of its gradient where the end depends on it."""
        tilted, point = self._tilted, self._tilted.objective.at(where)
        if self._options.fixed_steps is not None:
            return _Stand(point, tilted.value(point))
        value, downhill = tilted.value_shares(point), tilted.descent_direction(point)
        data, quadratic, norm2 = tilted.totals(*value, tilted.inner.share(downhill, downhill))
        return _Stand(point, data + quadratic, downhill, math.sqrt(norm2))

    def _norm(self, place: _Stand) -> float:
        """||grad F|| at a place."""
        if math.isnan(place.norm):
            downhill = self._downhill(place)
            place.norm = math.sqrt(self._tilted.inner((downhill, downhill))[0])
        return place.norm

    def _downhill(self, place: _Stand) -> Tensor:
        """-grad F at a place."""
        if place.downhill is None:
            place.downhill = self._tilted.descent_direction(place.point)
        return place.downhill

    def _solve(self) -> Solution:
        """(H + Lambda) step = -grad F inside the trust region."""
        options, tilted, place = self._options, self._tilted, self._place
        downhill = self._downhill(place).to(tilted.objective.dtype)
        if place.matrix is None:
            curvature = place.point.curvature(options.curvature)
            most = max((solution.iterations for solution in self.solutions), default=0)
            place.matrix = (
                curvature,
                make_preconditioner(
                    curvature, tilted.damping, options.preconditioner, tilted.kernels, most, tilted.objective.dtype
                ),
            )
        curvature, preconditioner = place.matrix
        if options.curvature == "hessian" and math.isinf(self._radius):
            scaled = preconditioner.solve(downhill, torch.empty_like(downhill))
            self._radius = math.sqrt(tilted.inner((downhill, scaled))[0])
        damping = tilted.damping.to(tilted.objective.dtype)
        return conjugate_gradients(
            lambda vector: curvature.product(vector, damping),
            downhill,
            preconditioner,
            tilted.inner,
            tolerance=options.solver_tolerance,
            max_iterations=options.max_iterations,
            radius=self._radius if self._radius > 0 else math.inf,
        )


def minimise(tilted: TiltedObjective, place: Place, options: SolveOptions, goal: Goal) -> Descent:
    """Newton steps from a place of the selected rows, as the options say, until the goal is reached."""
    walk = _Walk(tilted, place, options, goal)
    while (status := walk.end()) is None:
        walk.step()
    best = walk.best
    return Descent(point=best.point, solutions=walk.solutions, steps=best.steps, status=status)
