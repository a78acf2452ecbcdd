"""One batch on one worker: select rows, take anchored Newton steps, and certify what is left of the influence."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ifru_dist.influence.cg import Solution, Status, conjugate_gradients
from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.damping import row_damping
from ifru_dist.influence.direct import DirectObjective
from ifru_dist.influence.importance import endpoints, select_rows
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.objective import Objective, RowValues
from ifru_dist.influence.propagated import PropagatedObjective
from ifru_dist.influence.reduction import InnerProducts
from ifru_dist.influence.shard import Shard
from ifru_dist.models.base import Model


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How a batch is solved."""

    damping: float
    """c of Lambda = c * sqrt(deg)."""
    newton_steps: int
    hops: int
    row_budget: int
    """Rows over all workers at most; the endpoints are in even when they are more."""
    tolerance: float
    """Relative residual at which conjugate gradients stop."""
    max_iterations: int
    """Products per Newton step at most."""
    product_dtype: torch.dtype = torch.float32
    """Type of what curvature products read at the far ends of edges; residuals and sums are float64."""
    storage_dtype: torch.dtype = torch.float32
    """What the tables hold: the update is rounded to it before it is certified."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A worker's share of a solved batch. The figures are those of all workers together."""

    rows: Tensor
    """(m,) global rows that moved."""
    values: Tensor
    """(m, d) their new embeddings."""
    emptied: Tensor
    """(k,) global rows that lost all their examples."""
    selected_rows: int
    edges: int
    """Edges of the selected rows."""
    iterations: list[int]
    """Products of each Newton step."""
    relative_residual: float
    """Of the last linear solve, by its recurrence."""
    status: Status
    influence_residual: float
    """rho = ||r after|| / ||r before||, from true gradients."""
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_sent: int = 0


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
    clock, sent = _Clock(), communicator.bytes_sent
    with clock("subgraph"):
        selected = select_rows(shard, erased, communicator, kernels, hops=options.hops, row_budget=options.row_budget)
    with clock("gradient"):
        kind = DirectObjective if len(model.layer_weights) == 1 else PropagatedObjective
        objective: Objective = kind(shard, erased, selected, model, communicator, kernels, options.product_dtype)
    with clock("solve"):
        solver = _NewtonSolver(shard, objective, communicator, kernels, options, partitions)
        embeddings, solutions = solver.run()
    with clock("verify"):
        embeddings = embeddings.to(options.storage_dtype).double()
        rho = solver.influence_residual(embeddings)
        counts = _totals(communicator, selected.sum(), shard.degrees[selected].sum())
    last = solutions[-1]
    return Outcome(
        rows=shard.rows[objective.positions],
        values=embeddings[objective.positions],
        emptied=shard.rows[endpoints(shard, erased)[1]],
        selected_rows=counts[0],
        edges=counts[1],
        iterations=[solution.iterations for solution in solutions],
        relative_residual=last.relative_residual,
        status=_worst_status(solutions) if math.isfinite(rho) else "not_finite",
        influence_residual=rho,
        seconds=clock.seconds,
        bytes_sent=communicator.bytes_sent - sent,
    )


class _NewtonSolver:
    """Anchored Gauss-Newton steps on the tilted objective of one batch."""

    def __init__(
        self,
        shard: Shard,
        objective: Objective,
        communicator: Communicator,
        kernels: Kernels,
        options: SolveOptions,
        partitions: int,
    ) -> None:
        self._shard, self._objective, self._options = shard, objective, options
        self._communicator, self._kernels, self._partitions = communicator, kernels, partitions
        self._damping = row_damping(options.damping, shard.degrees)[objective.positions][:, None]
        self._inner = self._inner_products(objective.positions)

    def run(self) -> tuple[Tensor, list[Solution]]:
        """Own embeddings (n, d) after the steps, and each step's linear solve; stops at one that is not usable."""
        start, chosen = self._shard.embeddings, self._objective.positions
        embeddings, solutions = start, []
        for _ in range(self._options.newton_steps):
            solution = self._step(embeddings, embeddings[chosen] - start[chosen])
            solutions.append(solution)
            if not solution.usable:
                break
            embeddings = embeddings.index_add(0, chosen, solution.value)
        return embeddings, solutions

    def influence_residual(self, embeddings: Tensor) -> float:
        """||r|| at the embeddings (n, d) over ||r|| before the batch; 0 when there was none."""
        before = self._norm2(self._objective.start_residual())
        return math.sqrt(self._norm2(self._objective.end_residual(embeddings)) / before) if before > 0 else 0.0

    def _step(self, embeddings: Tensor, moved: Tensor) -> Solution:
        """(H + Lambda) step = r - Lambda * moved."""
        residual, curvature = self._objective.linearise(embeddings)
        diagonal = curvature.diagonal + self._damping
        return conjugate_gradients(
            lambda vector: curvature.product(vector).addcmul_(self._damping, vector),
            residual - self._damping * moved,
            torch.where(diagonal > 0, diagonal, 1.0),  # a row without curvature keeps its scale
            self._inner,
            tolerance=self._options.tolerance,
            max_iterations=self._options.max_iterations,
        )

    def _norm2(self, residual: RowValues) -> float:
        """Squared norm over all workers."""
        return self._inner_products(residual.positions)((residual.values, residual.values))[0]

    def _inner_products(self, positions: Tensor) -> InnerProducts:
        """Inner products over some of the own rows."""
        return InnerProducts(self._communicator, self._kernels, self._shard.partition[positions], self._partitions)


def _worst_status(solutions: list[Solution]) -> Status:
    """The status of the last step, unless an earlier one ended at its limit of iterations."""
    if solutions[-1].status == "converged" and any(solution.status != "converged" for solution in solutions):
        return "max_iterations"
    return solutions[-1].status


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start


def _totals(communicator: Communicator, *counts: Tensor) -> list[int]:
    """Counts summed over the workers."""
    return [int(count) for count in communicator.all_reduce(torch.stack(counts).double()).tolist()]
