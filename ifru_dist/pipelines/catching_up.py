"""A model of older data becomes current: what was erased since is unlearned from it first, in one commit.

That is a model of an earlier version (jobs/restore.py), or one that was trained elsewhere on the data of an earlier
version (jobs/train.py --trained-on).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.influence.outcome import Outcome
from ifru_dist.pipelines.gangs import GangFlags, run_on_workers
from ifru_dist.pipelines.held_out import HeldOutErasure
from ifru_dist.pipelines.merging import merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.residual_budget import ResidualBudget, still_held
from ifru_dist.pipelines.routing import Routed
from ifru_dist.pipelines.solving import SolveFlags, chosen_damping
from ifru_dist.pipelines.unlearn_report import BatchResult, unlearn_report
from ifru_dist.sharding.policy import Failure
from ifru_dist.workspace.appending import rows_in
from ifru_dist.workspace.commits import Restoration
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.version import Version

_OF_REQUESTS = ("requests", "not_applied", "held_out_erased")
"""What a batch reports of requests, of which there are none here."""

Commit = Callable[[Restoration], Manifest]


@dataclass(frozen=True, kw_only=True)
class CatchUpFlags(SolveFlags, GangFlags):
    """How what was erased since is unlearned."""

    damping: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """c of Lambda (see --anchor); auto: what jobs/calibrate.py found for that model, or else a default."""
    temperature: Literal["auto"] | Annotated[float, Field(ge=1, allow_inf_nan=False)] = "auto"
    """T of the loss T * l(score / T) by which influence is judged; auto: that of the model's calibration, or else 1."""
    residual_budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """As for jobs/unlearn.py: past it the model is current all the same, and the job ends with status 9: retraining is
    due."""


class CatchingUp:
    """One older model, against the current version."""

    def __init__(self, flags: CatchUpFlags, current: Version, older: Version) -> None:
        """See what was erased since; all that can be refused without solving is refused here."""
        self._flags, self._current, self._older = flags, current, older
        flags.check_model(older.model.spec)
        self._damping = chosen_damping(flags.damping, flags.temperature, older.model, flags)
        self._options = flags.solve_options(self._damping)
        erased = current.erased_since(older)
        self._examples = erased[erased < older.trained_bound]
        forgotten = rows_in(current.forgotten_rows(), current.layout, older.layout)
        self._forgotten = np.setdiff1d(forgotten, older.forgotten_rows())
        self._failures: list[str] = []

    def run(self, commit: Commit, summary: dict[str, object]) -> BatchResult:
        """Unlearn what was erased since, and commit; the summary is for the manifest."""
        start = time.perf_counter()
        outcomes = self._solve() if len(self._examples) else []
        solved = time.perf_counter()
        update = merged_update(self._older, outcomes, self._forgotten)
        budget = self._budget(outcomes)
        manifest = commit(
            Restoration(
                rows=update.rows,
                values=update.values,
                dense=update.dense,
                unsolved_interactions=budget.unsolved,
                summary=summary | {"interactions_unlearned": len(self._examples)},
            )
        )
        return BatchResult(
            routed=self._routed(),
            outcomes=outcomes or None,
            version_before=self._current.manifest.version,
            version_after=manifest.version,
            rows_updated=len(update.rows),
            damping=self._damping,
            residual_budget=budget,
            options=self._options,
            seconds={"gang": solved - start, "commit": time.perf_counter() - solved},
            failed_attempts=self._failures,
        )

    def _solve(self) -> list[Outcome]:
        """Unlearn the examples from the older model, on workers that hold the older data."""
        number = self._older.manifest.version
        say(f"unlearning {len(self._examples)} interactions that were erased after version {number}")
        return run_on_workers(
            self._older,
            self._flags,
            lambda gang: gang.call("solve", self._examples, self._options, self._rows),
            self._note_failure,
        )

    def _budget(self, outcomes: list[Outcome]) -> ResidualBudget:
        """What stays unsolved in the older model, with this batch."""
        held = still_held(self._older, self._rows, outcomes, self._forgotten)
        return ResidualBudget(
            trained=self._older.trained_interactions,
            spent_before=self._older.model.unsolved_interactions,
            unsolved=outcomes[0].influence_residual * held if outcomes else 0.0,
            budget=self._flags.residual_budget,
        )

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """(examples, fields) global rows of the examples."""
        return self._older.all_examples().take(self._examples).rows

    def _routed(self) -> Routed:
        """What was unlearned, in the words of a batch; it has no requests."""
        nothing: NDArray[np.int64] = np.empty((0, 2), np.int64)
        return Routed(
            examples=self._examples,
            rows=self._rows,
            forgotten=self._forgotten,
            held_out=HeldOutErasure(named=np.empty(0, np.bool_), positions={}, rows=nothing),
            users=np.unique(self._rows[:, 0]),
            entries=[],
            suppressed=[],
        )

    def _note_failure(self, failure: Failure) -> None:
        """Say that an attempt failed, and keep it for the report."""
        self._failures.append(failure.message)
        say(f"attempt {failure.attempt} failed: {failure.message}")


def caught_up_report(result: BatchResult, config: object) -> dict[str, Any]:
    """What a batch reports, without what it does of requests."""
    return {key: value for key, value in unlearn_report(result, config).items() if key not in _OF_REQUESTS}


def solver_in_words(report: dict[str, Any]) -> list[str]:
    """How the solve went, in lines; none where nothing had to be solved."""
    solver = report["solver"]
    if solver is None:
        return []
    line = (
        f"solver: {solver['status']}, {solver['newton_steps']} Newton steps, damping {solver['damping']} "
        f"({solver['damping_source']}); influence residual {report['influence_residual']:.4f}"
    )
    return [line, *(f"note: {solver[key]}" for key in ("remedy", "damping_note") if solver[key])]
