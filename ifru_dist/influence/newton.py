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
from ifru_dist.influence.preconditioner import Preconditioner, make_preconditioner
from ifru_dist.influence.reduction import Reduction
from ifru_dist.influence.shard import Shard

_ACCEPT = 1e-4  # least share of the predicted decrease that a step must bring
_POOR, _GOOD = 0.25, 0.75  # shares of the predicted decrease under and over which the trust region changes
_SHRINK, _GROW = 0.25, 2.0
_MAX_REJECTED = 12  # in a row
_PATIENCE = {"gauss-newton": 1, "hessian": 4}  # steps in a row that may fail to shorten the gradient
_ROUNDING = 1e-13  # share of the decrease so far under which a predicted decrease is rounding


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Newton steps from one set of embeddings to another."""

    embeddings: Tensor
    """(n, d) of the own rows."""
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
        self._start = shard.embeddings[objective.positions]
        self._tilt = objective.start_gradient()

    def value(self, point: Point, embeddings: Tensor) -> float:
        """F(E) - F(E0) at the own rows' embeddings (n, d)."""
        moved = self._moved(embeddings)
        half, loss = 0.5 * moved, point.loss_change()
        held = self.damping * moved if self._anchored else torch.zeros_like(moved)
        ridge, tilt, spring = self.inner(
            (self.objective.ridge * moved, self._start + half), (self._tilt, moved), (held, half)
        )
        (data,) = self._reduction.on(loss.positions)((loss.values, torch.ones_like(loss.values)))
        return data + ridge - tilt + spring

    def descent_direction(self, point: Point, embeddings: Tensor) -> Tensor:
        """-grad F on the selected rows, (m, d)."""
        residual = point.residual()
        return residual.sub_(self.damping * self._moved(embeddings)) if self._anchored else residual

    def _moved(self, embeddings: Tensor) -> Tensor:
        """E - E0 on the selected rows, (m, d)."""
        return embeddings[self.objective.positions] - self._start


@dataclass
class _Place:
    """One set of embeddings with what is known there."""

    point: Point
    embeddings: Tensor
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
        embeddings: Tensor,
        options: SolveOptions,
        goal: Goal,
    ) -> None:
        self._tilted, self._options, self._goal = tilted, options, goal
        self.solutions: list[Solution] = []
        self._radius = math.inf
        self._taken = self._rejected = self._without_gain = 0
        self._ended: Status | None = None
        self._place = self.best = self._arrive(embeddings)

    def end(self) -> Status | None:
        """Why the descent is over; None while it is not."""
        steps = self._options.fixed_steps
        if self._ended is not None or not math.isfinite(self._place.value):
            return self._ended or "not_finite"
        if self._place.norm <= self._goal.norm:
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
        elif solution.decrease > _ROUNDING * abs(self._place.value):
            self._try(solution)
        elif solution.decrease == 0 or self._options.fixed_steps is not None:
            self._ended = "converged"
        else:
            self._try_by_gradient(solution)

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
        if trial.norm < self._place.norm:
            self._move(trial)
        else:
            self._ended = self._stalled()

    def _reached(self, solution: Solution) -> _Place:
        """The place that a step leads to."""
        positions = self._tilted.objective.positions
        return self._arrive(self._place.embeddings.index_add(0, positions, solution.value))

    def _move(self, trial: _Place) -> None:
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

    def _arrive(self, embeddings: Tensor) -> _Place:
        """A place, with the length of its gradient where the end depends on it."""
        point = self._tilted.objective.at(embeddings)
        place = _Place(point, embeddings, self._tilted.value(point, embeddings))
        if self._options.fixed_steps is None and math.isfinite(place.value):
            downhill = self._downhill(place)
            place.norm = math.sqrt(self._tilted.inner((downhill, downhill))[0])
        return place

    def _downhill(self, place: _Place) -> Tensor:
        """-grad F at a place."""
        if place.downhill is None:
            place.downhill = self._tilted.descent_direction(place.point, place.embeddings)
        return place.downhill

    def _solve(self) -> Solution:
        """(H + Lambda) step = -grad F inside the trust region."""
        options, tilted, place = self._options, self._tilted, self._place
        downhill = self._downhill(place)
        if place.matrix is None:
            curvature = place.point.curvature(options.curvature)
            most = max((solution.iterations for solution in self.solutions), default=0)
            place.matrix = (
                curvature,
                make_preconditioner(curvature, tilted.damping, options.preconditioner, tilted.kernels, most),
            )
        curvature, preconditioner = place.matrix
        if options.curvature == "hessian" and math.isinf(self._radius):
            scaled = preconditioner.solve(downhill, torch.empty_like(downhill))
            self._radius = math.sqrt(tilted.inner((downhill, scaled))[0])
        return conjugate_gradients(
            lambda vector: curvature.product(vector).addcmul_(tilted.damping, vector),
            downhill,
            preconditioner,
            tilted.inner,
            tolerance=options.solver_tolerance,
            max_iterations=options.max_iterations,
            radius=self._radius if self._radius > 0 else math.inf,
        )


def minimise(tilted: TiltedObjective, embeddings: Tensor, options: SolveOptions, goal: Goal) -> Descent:
    """Newton steps from the own rows' embeddings (n, d), as the options say, until the goal is reached."""
    walk = _Walk(tilted, embeddings, options, goal)
    while (status := walk.end()) is None:
        walk.step()
    best = walk.best
    return Descent(
        embeddings=best.embeddings, point=best.point, solutions=walk.solutions, steps=best.steps, status=status
    )
