"""jobs/restore.py: make an earlier version's model current again, and bring nothing back that was erased since."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.influence.outcome import Outcome
from ifru_dist.pipelines.gangs import GangFlags, run_on_workers
from ifru_dist.pipelines.held_out import HeldOutErasure
from ifru_dist.pipelines.merging import merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.residual_budget import ResidualBudget, still_held
from ifru_dist.pipelines.routing import Routed
from ifru_dist.pipelines.solving import SolveFlags, chosen_damping
from ifru_dist.pipelines.unlearn import RETRAINING_DUE
from ifru_dist.pipelines.unlearn_report import BatchResult, unlearn_report
from ifru_dist.sharding.policy import Failure
from ifru_dist.workspace.commits import Restoration, commit_restoration
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

_OF_REQUESTS = ("requests", "not_applied", "held_out_erased")
"""What a batch reports of requests, which this job has none of."""


@dataclass(frozen=True, kw_only=True)
class RestoreConfig(SolveFlags, GangFlags):
    """Make an earlier version's model current again; what was erased since stays erased, and is unlearned from it."""

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    version: Annotated[int, Field(ge=1)]
    """The version whose model is to be current again; the data stay as they are now."""
    damping: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """c of Lambda (see --anchor); auto: what jobs/calibrate.py found for that model, or else a default."""
    temperature: Literal["auto"] | Annotated[float, Field(ge=1, allow_inf_nan=False)] = "auto"
    """T of the loss T * l(score / T) by which influence is judged; auto: that of the model's calibration, or else 1."""
    residual_budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """As for jobs/unlearn.py: past it the model is restored, and the job ends with status 9: retraining is due."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/restore-VERSION."""


def restore(config: RestoreConfig) -> int:
    """Run the job: one new version, and a report.

    Returns:
        0; RETRAINING_DUE when the model is restored, but what stays unsolved in it is past the budget.

    Raises:
        IfruError: nothing was committed, and the workspace is as it was.
    """
    started = time.perf_counter()
    config = validated(config)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, workspace.root / "reports")
    with workspace.lock("restore"):
        result = _RestoreJob(config, open_version(workspace, check_content=True)).run()
    result.seconds["job"] = time.perf_counter() - started
    shared = {key: value for key, value in unlearn_report(result, config).items() if key not in _OF_REQUESTS}
    report = shared | {"job": "restore", "restored_version": config.version}
    summary = restore_summary(report, result.residual_budget)
    folder = config.output or workspace.root / "reports" / f"restore-{result.version_after:06d}"
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return RETRAINING_DUE if result.residual_budget.retraining_due else 0


def restore_summary(report: dict[str, Any], budget: ResidualBudget) -> str:
    """The report in words."""
    erased, solver = report["interactions_erased"], report["solver"]
    lines = [
        f"version {report['version_before']} -> {report['version_after']}: the model of version "
        f"{report['restored_version']}, from which {erased} interactions that were erased since are unlearned: "
        f"{report['rows_updated']} rows updated, {report['rows_forgotten']} users and items among them reset wholly"
    ]
    if solver is not None:
        lines.append(
            f"solver: {solver['status']}, {solver['newton_steps']} Newton steps, damping {solver['damping']} "
            f"({solver['damping_source']}); influence residual {report['influence_residual']:.4f}"
        )
        lines += [f"note: {solver[key]}" for key in ("remedy", "damping_note") if solver[key]]
    return "\n".join([*lines, budget.in_words()])


class _RestoreJob:
    """One restoration, against the current version."""

    def __init__(self, config: RestoreConfig, current: Version) -> None:
        """Open the older version; all that can be refused without solving is refused here."""
        self._config, self._current = config, current
        self._older = _opened(current, config.version)
        config.check_model(self._older.model.spec)
        self._damping = chosen_damping(config.damping, config.temperature, self._older.model, config)
        self._options = config.solve_options(self._damping)
        self._examples = current.erased_since(self._older)
        self._forgotten = np.setdiff1d(current.forgotten_rows(), self._older.forgotten_rows())
        self._failures: list[str] = []

    def run(self) -> BatchResult:
        """Unlearn what was erased since, and commit."""
        start = time.perf_counter()
        outcomes = self._solve() if len(self._examples) else []
        solved = time.perf_counter()
        update = merged_update(self._older, outcomes, self._forgotten)
        budget = self._budget(outcomes)
        manifest = commit_restoration(
            self._current,
            self._older,
            Restoration(
                rows=update.rows,
                values=update.values,
                dense=update.dense,
                unsolved_interactions=budget.unsolved,
                summary={"restored_version": self._config.version, "interactions_unlearned": len(self._examples)},
            ),
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
        """Unlearn the examples from the older version's model, on workers that hold that version."""
        say(f"unlearning {len(self._examples)} interactions that were erased after version {self._config.version}")
        return run_on_workers(
            self._older,
            self._config,
            lambda gang: gang.call("solve", self._examples, self._options),
            self._note_failure,
        )

    def _budget(self, outcomes: list[Outcome]) -> ResidualBudget:
        """What stays unsolved in the older model, with this batch."""
        held = still_held(self._older, self._examples, outcomes, self._forgotten)
        return ResidualBudget(
            trained=self._older.trained_interactions,
            spent_before=self._older.model.unsolved_interactions,
            unsolved=outcomes[0].influence_residual * held if outcomes else 0.0,
            budget=self._config.residual_budget,
        )

    def _routed(self) -> Routed:
        """What was unlearned, in the words of a batch; it has no requests."""
        pairs = self._older.all_examples().take(self._examples).pairs
        nothing: NDArray[np.int64] = np.empty((0, 2), np.int64)
        return Routed(
            examples=self._examples,
            pairs=pairs,
            forgotten=self._forgotten,
            held_out=HeldOutErasure(named=np.empty(0, np.bool_), positions={}, rows=nothing),
            users=np.unique(pairs[:, 0]),
            entries=[],
            suppressed=[],
        )

    def _note_failure(self, failure: Failure) -> None:
        """Say that an attempt failed, and keep it for the report."""
        self._failures.append(failure.message)
        say(f"attempt {failure.attempt} failed: {failure.message}")


def _opened(current: Version, number: int) -> Version:
    """The older version, if its model can be made current on the data of now."""
    workspace, now = current.workspace, current.manifest
    if number == now.version:
        raise ConfigError(f"--version = {number}: this version is current already: name an older one")
    older = open_version(workspace, number, check_content=True)
    trained_on = workspace.manifest(older.model.trained_version).epoch if older.manifest.model else None
    if trained_on is None:
        raise WorkspaceError(
            f"version {number} of {workspace.root} holds no model: name one that was made by jobs/train.py or after it"
        )
    if not trained_on == older.manifest.epoch == now.epoch:
        raise WorkspaceError(
            f"version {number} of {workspace.root} holds a model that was trained on data epoch {trained_on}, and the "
            f"data are those of epoch {now.epoch}: train on them with jobs/train.py, or name a version of this epoch"
        )
    return older
