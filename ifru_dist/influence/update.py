"""One batch on one worker: rows enter in rounds, Newton steps move them, and a certificate says what is left."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ifru_dist.influence.cg import Solution
from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.damping import row_damping
from ifru_dist.influence.direct import DirectObjective
from ifru_dist.influence.importance import endpoints, select_by_degree, select_by_step
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.newton import TiltedObjective, minimise
from ifru_dist.influence.objective import Objective, Outside, RowValues
from ifru_dist.influence.options import AUTO_ROWS, USABLE, SolveOptions, Status
from ifru_dist.influence.propagated import PropagatedObjective
from ifru_dist.influence.reduction import Reduction
from ifru_dist.influence.shard import Shard
from ifru_dist.models.base import Model

_LOOSE = 0.1
"""Tolerance of rounds that others may follow."""
_CONTRACTION = 0.75
"""Share to which a Newton step must shorten the gradient for another to follow, on a model that was stopped early."""
_DIVERGED = 100.0
"""An update that leaves so many times the influence that was there has gone astray, even where it lowered F: steps that
were too many for a model stopped early have been seen to leave 16 times as much."""
_MARGIN = 0.5
"""Rows enter until the rest is this far under the tolerance: those that enter raise the rest a little as they move."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of rows did. The figures are those of all workers together."""

    rows: int
    """Rows that could move."""
    edges: int
    """Edges at them."""
    iterations: list[int]
    """Products of each Newton step."""
    residual_outside: float | None
    """||r|| on the rows that could not move, over ||r before||; None where no other round was thought of."""
    kept: bool
    """False for a last round that did not bring that residual down: its steps were taken back."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A worker's share of a solved batch. The figures are those of all workers together."""

    rows: Tensor
    """(m,) global rows that moved."""
    values: Tensor
    """(m, d) their new embeddings."""
    emptied: Tensor
    """(k,) global rows that lost all their examples."""
    rounds: list[Round]
    stationarity: float
    """||g0|| / ||r before|| on the first round's rows: how unfinished training was, beside what is to be removed."""
    relative_residual: float
    """Of the last linear solve, by its recurrence."""
    status: Status
    objective_change: float
    """F(E after) - F(E before) of the tilted objective, as the embeddings are stored; not positive."""
    influence_residual: float
    """rho = ||r after|| / ||r before||, from true gradients."""
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_sent: int = 0

    @property
    def iterations(self) -> list[int]:
        """Products of each Newton step of all rounds."""
        return [count for entry in self.rounds for count in entry.iterations]


def unlearn_batch(
    shard: Shard,
    erased: Tensor,
    model: Model,
    communicator: Communicator,
    kernels: Kernels,
    options: SolveOptions,
    partitions: int,
) -> Outcome:
    """Solve one batch; all workers make this call together.

    Args:
        shard: This worker's rows before the batch.
        erased: (e,) bool: the shard's edges whose examples go.
        model: Score, loss and regulariser.
        communicator: Exchanges with the other workers.
        kernels: Edge loops.
        options: How to solve.
        partitions: Virtual partitions, the unit in which sums are formed.

    Returns:
        This worker's rows and the common figures. An outcome whose status is not usable must not be committed.
    """
    return Batch(shard, erased, model, communicator, kernels, options, partitions).solve(options.damping)


class Batch:
    """One batch on one worker: what does not depend on the damping is prepared once."""

    def __init__(
        self,
        shard: Shard,
        erased: Tensor,
        model: Model,
        communicator: Communicator,
        kernels: Kernels,
        options: SolveOptions,
        partitions: int,
    ) -> None:
        """Select the first round's rows and prepare their examples; the arguments are those of ``unlearn_batch``."""
        self._clock, self._sent = _Clock(), communicator.bytes_sent
        self._shard, self._erased, self._options, self._communicator = shard, erased, options, communicator
        self._reduction = Reduction(communicator, kernels, shard.partition, partitions)
        with self._clock("subgraph"):
            self._selected = self._first_rows(kernels)
        with self._clock("gradient"):
            kind = DirectObjective if len(model.layer_weights) == 1 else PropagatedObjective
            self._objective: Objective = kind(
                shard, erased, self._selected, model, communicator, kernels, options.product_dtype
            )
            self._start_norm = self._norm(self._objective.start_residual())
            self._tilt_norm = self._norm(RowValues(self._objective.positions, self._objective.start_gradient()))
        self._room = self._row_budget()

    def solve(self, damping: float, warm_start: Tensor | None = None) -> Outcome:
        """Rounds of Newton steps with c = ``damping``, then the certificate.

        Args:
            damping: c of Lambda.
            warm_start: Own rows' embeddings (n, d) to start from; only rows of the first round may differ from the
                model before the batch.
        """
        anchor = row_damping(damping, self._shard.degrees)
        start = self._shard.embeddings if warm_start is None else warm_start
        current = self._descend(self._selected, self._objective, start, anchor)
        self.after_first_round = current.embeddings
        rounds: list[Round] = []
        while True:
            wider = self._wider(current, anchor) if current.status in USABLE else None
            rounds.append(self._round(current, kept=True))
            if wider is None:
                break
            with self._clock("gradient"):
                objective = current.tilted.objective.selecting(wider)
            following = self._descend(wider, objective, current.embeddings, anchor)
            # Around a model that was stopped early, rows that enter may move it away from where retraining would go.
            better = following.status in USABLE and self._outside_norm(following) < self._outside_norm(current)
            if not better:
                rounds.append(self._round(following, kept=False))
                break
            current = following
        with self._clock("verify"):
            outcome = self._verified(current, rounds)
        return replace(outcome, seconds=dict(self._clock.seconds))

    def _first_rows(self, kernels: Kernels) -> Tensor:
        """Mask (n,) of the rows of the first round."""
        options = self._options
        if options.importance == "step":
            return endpoints(self._shard, self._erased)[0]
        return select_by_degree(
            self._shard,
            self._erased,
            self._communicator,
            kernels,
            hops=options.hops,
            quantile=options.quantile,
            row_budget=options.row_budget if isinstance(options.row_budget, int) else math.inf,
        )

    @property
    def _near_stationary(self) -> bool:
        """Whether the model's own gradient is no longer than the influence that is to be removed."""
        return self._tilt_norm <= self._start_norm

    def _row_budget(self) -> float:
        """Rows that may be selected at most, over all workers."""
        budget, count = self._options.row_budget, self._count(self._selected)
        if self._options.importance == "degree":
            return count
        if budget == "auto":
            return count * (AUTO_ROWS if self._near_stationary else 1)
        return math.inf if budget == "all" else budget

    def _descend(self, selected: Tensor, objective: Objective, embeddings: Tensor, anchor: Tensor) -> "_Stage":
        """Newton steps with some rows; loosely solved while rows may follow that will change it again."""
        tilted = TiltedObjective(self._shard, objective, anchor, self._reduction)
        stage = _Stage(selected, tilted, embeddings)
        tolerance, growing = self._options.tolerance, self._count(selected) < self._room
        self._minimise(stage, max(tolerance, _LOOSE) if growing else tolerance)
        loose = growing and self._options.newton_steps is None and tolerance < _LOOSE
        if loose and stage.status in USABLE and self._outside_norm(stage) <= tolerance * self._start_norm:
            self._minimise(stage, tolerance)
        return stage

    def _minimise(self, stage: "_Stage", tolerance: float) -> None:
        """Newton steps until the gradient is under the tolerance."""
        with self._clock("solve"):
            contraction = 1.0 if self._near_stationary else _CONTRACTION
            allowed = tolerance * self._start_norm
            descent = minimise(stage.tilted, stage.embeddings, self._options, allowed, contraction)
        stage.embeddings, stage.status, stage.outside = descent.embeddings, descent.status, None
        stage.solutions += descent.solutions

    def _wider(self, stage: "_Stage", anchor: Tensor) -> Tensor | None:
        """Mask (n,) of the next round's rows; None when the rest is small enough or the budget is used."""
        count = self._count(stage.selected)
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
            return wider if self._count(wider) > count else None

    def _outside(self, stage: "_Stage") -> Outside:
        """What is left on the rows that could not move; computed once."""
        if stage.outside is None:
            stage.outside = stage.tilted.objective.outside(stage.embeddings)
        return stage.outside

    def _outside_norm(self, stage: "_Stage") -> float:
        """||r|| on the rows that could not move."""
        with self._clock("subgraph"):
            outside = self._outside(stage)
            return self._norm(RowValues(outside.positions, outside.residual))

    def _verified(self, stage: "_Stage", rounds: list[Round]) -> Outcome:
        """The update as it is stored, with its certificate."""
        objective, status = stage.tilted.objective, stage.status
        embeddings, change = stage.embeddings, 0.0
        if status in USABLE:
            embeddings = embeddings.to(self._options.storage_dtype).double()
            change = stage.tilted.value(objective.at(embeddings), embeddings)
            if change > 0 or (change == 0 and self._start_norm > 0 and self._count(stage.selected) > 0):
                # Steps only go downhill, so this is the rounding: the influence is too small for the tables to express.
                embeddings, change, status = self._shard.embeddings, 0.0, "under_resolution"
        inner = RowValues(objective.positions, objective.at(embeddings).residual())
        outside = objective.outside(embeddings)
        left = math.hypot(self._norm(inner), self._norm(RowValues(outside.positions, outside.residual)))
        rho = left / self._start_norm if self._start_norm > 0 else 0.0
        if status in USABLE and rho > _DIVERGED:
            status = "diverged"
        return Outcome(
            rows=self._shard.rows[objective.positions],
            values=embeddings[objective.positions],
            emptied=self._shard.rows[endpoints(self._shard, self._erased)[1]],
            rounds=rounds,
            stationarity=self._tilt_norm / self._start_norm if self._start_norm > 0 else 0.0,
            relative_residual=stage.solutions[-1].relative_residual if stage.solutions else 0.0,
            status=status if math.isfinite(rho) and math.isfinite(change) else "not_finite",
            objective_change=change,
            influence_residual=rho,
            bytes_sent=self._communicator.bytes_sent - self._sent,
        )

    def _round(self, stage: "_Stage", *, kept: bool) -> Round:
        """The figures of a round."""
        rows, edges = self._totals(stage.selected.sum(), self._shard.degrees[stage.selected].sum())
        return Round(
            rows=rows,
            edges=edges,
            iterations=[solution.iterations for solution in stage.solutions],
            residual_outside=None if stage.outside is None else self._outside_norm(stage) / self._start_norm,
            kept=kept,
        )

    def _norm(self, residual: RowValues) -> float:
        """Norm over all workers."""
        (norm2,) = self._reduction.on(residual.positions)((residual.values, residual.values))
        return math.sqrt(norm2)

    def _count(self, selected: Tensor) -> int:
        """Rows of a mask (n,) over all workers."""
        return self._totals(selected.sum())[0]

    def _totals(self, *counts: Tensor) -> list[int]:
        """Counts summed over the workers."""
        return [int(count) for count in self._communicator.all_reduce(torch.stack(counts).double()).tolist()]


@dataclass
class _Stage:
    """One selection of rows, and where its Newton steps have led."""

    selected: Tensor
    """(n,) bool."""
    tilted: TiltedObjective
    embeddings: Tensor
    """(n, d)."""
    status: Status = "converged"
    solutions: list[Solution] = field(default_factory=list)
    outside: Outside | None = None


class _Clock:
    """Seconds by phase, added up."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("subgraph", "gradient", "solve", "verify"), 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start
