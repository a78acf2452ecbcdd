"""Full-batch training to a stationary point: L-BFGS in float64 on the summed objective.

Influence functions take the trained model for a stationary point; early-stopped Adam does not reach one.

How near one comes is bounded by the line search, which compares values: a gradient g along a direction of curvature h
promises g^2 / (2 h), which drowns in the rounding of the sum below g = sqrt(2 h * 2e-16 * objective). On 60,000
examples of MovieLens-100K it stopped between 2e-5 and 5e-5; the bound grows with the square root of their number.

Shapes: P numbers in all parameters (embedding rows first), n training examples.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits

from ifru_dist.errors import TrainingError
from ifru_dist.training.examples import TrainingExamples
from ifru_dist.training.objective import TrainingObjective

# More pairs than scipy's 10 save evaluations, which cost far more than the pairs' inner products.
_CORRECTION_PAIRS = 30


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Where L-BFGS ended; the parameters themselves were moved in place."""

    gradient_norm: float
    """2-norm of the gradient of the summed objective by all parameters."""
    stopped_by: Literal["gradient", "epochs", "precision"]
    """The gradient is within the tolerance; out of iterations; or no step lowers the objective in float64 any more."""
    remedy: str
    """What to do about a descent that did not converge; empty for one that did."""
    evaluations: int
    """Of the objective and its gradient."""
    seconds: float
    """In all."""
    history: list[dict[str, Any]]
    """Per iteration: epoch (its number), loss (mean objective), gradient_norm, seconds."""

    @property
    def converged(self) -> bool:
        """Whether the gradient's norm is within the tolerance."""
        return self.stopped_by == "gradient"


def descend(
    objective: TrainingObjective,
    examples: TrainingExamples,
    *,
    gradient_tolerance: float,
    max_iterations: int,
    report: Callable[[dict[str, Any]], None],
) -> Descent:
    """Move the objective's parameters (float64) downhill until the gradient's norm is within the tolerance.

    Args:
        objective: moved in place.
        examples: all of them.
        gradient_tolerance: 2-norm of the gradient of the summed objective.
        max_iterations: of L-BFGS.
        report: is shown every entry of the history.

    Raises:
        TrainingError: the objective is no longer finite.
    """
    started = time.perf_counter()
    summed = _SummedObjective(objective, examples, gradient_tolerance, report)
    # No tolerance of scipy's own: neither fits the 2-norm, and both would stop it earlier.
    own = {"ftol": 0.0, "gtol": 0.0, "maxfun": 20 * max_iterations}
    with _one_thread():
        result = minimize(
            summed,
            summed.position(),
            jac=True,
            method="L-BFGS-B",
            callback=summed.after_iteration,
            options={"maxiter": max_iterations, "maxcor": _CORRECTION_PAIRS, **own},
        )
        norm = summed.move_to(result.x)
    out_of_iterations = result.nit >= max_iterations
    return Descent(
        gradient_norm=norm,
        stopped_by="gradient" if norm <= gradient_tolerance else "epochs" if out_of_iterations else "precision",
        remedy="" if norm <= gradient_tolerance else _remedy(out_of_iterations, norm),
        evaluations=summed.evaluations,
        seconds=time.perf_counter() - started,
        history=summed.history,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for scipy's BLAS and for torch, so that results do not depend on the number of threads.

    An iteration is hundreds of operations on arrays that fit the cache: threads gain little, and where other processes
    use the cores too, waiting for each other made them fifty times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def _remedy(out_of_iterations: bool, norm: float) -> str:
    """What helps where the gradient stayed too large."""
    if out_of_iterations:
        return "raise --epochs (the bound of its iterations), --gradient-tolerance, or the regulariser (--l2-row, --l2)"
    return (
        "no step lowers the objective any more within the precision of float64: raise --gradient-tolerance above "
        f"{norm:.2g}"
    )


class _SummedObjective:
    """The summed objective as scipy calls it, with what the last evaluation found."""

    def __init__(
        self,
        objective: TrainingObjective,
        examples: TrainingExamples,
        gradient_tolerance: float,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.evaluations = 0
        self.history: list[dict[str, Any]] = []
        self._objective, self._tolerance, self._report = objective, gradient_tolerance, report
        self._n_examples, drawn = len(examples), examples.of_objective()
        self._rows = torch.tensor(drawn.rows)
        self._labels = torch.tensor(drawn.labels, dtype=torch.float64)
        self._norm = math.inf
        self._since = time.perf_counter()

    def position(self) -> NDArray[np.float64]:
        """The parameters (P,), copied."""
        return np.concatenate([values.numpy().reshape(-1) for values in self._objective.parameters])

    def __call__(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Value and gradient (P,) at the parameters x (P,)."""
        self._move(x)
        mean, mean_gradient = self._objective.value_and_gradient(self._rows, self._labels)
        gradient = np.concatenate([(part * self._n_examples).numpy().reshape(-1) for part in mean_gradient])
        self._objective.clear(self._rows)
        self.evaluations += 1
        self._norm = float(np.linalg.norm(gradient))
        if not (math.isfinite(mean) and math.isfinite(self._norm)):
            raise TrainingError(
                f"training diverged: the objective is not finite after {len(self.history)} iterations of L-BFGS; "
                "use a smaller --init-std, or a larger --l2-row or --l2"
            )
        return mean * self._n_examples, gradient

    def _move(self, x: NDArray[np.float64]) -> None:
        """Set the parameters to x (P,)."""
        start = 0
        for values in self._objective.parameters:
            values.copy_(torch.from_numpy(x[start : start + values.numel()]).view_as(values))
            start += values.numel()

    def move_to(self, x: NDArray[np.float64]) -> float:
        """The gradient's norm at x; evaluated again only where x is not what was evaluated last."""
        if not np.array_equal(self.position(), x):
            self(x)
        return self._norm

    def after_iteration(self, intermediate_result: OptimizeResult) -> None:
        """Note the iteration; ends scipy's loop once the gradient is small enough. The name is scipy's condition."""
        norm, now = self.move_to(intermediate_result.x), time.perf_counter()
        entry = {
            "epoch": len(self.history) + 1,
            "loss": float(intermediate_result.fun) / self._n_examples,
            "gradient_norm": norm,
            "seconds": now - self._since,
        }
        self._since = now
        self.history.append(entry)
        self._report(entry)
        if norm <= self._tolerance:
            raise StopIteration
