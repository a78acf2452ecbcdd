"""jobs/unlearn.py: erase a file of requests from the data and the model of a workspace, as one new version."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import GuardError, InputError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.influence.outcome import Outcome
from ifru_dist.pipelines.gangs import GangFlags, run_on_workers
from ifru_dist.pipelines.merging import MergedUpdate, merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.requests import Request, read_requests, with_integer_ids
from ifru_dist.pipelines.residual_budget import ResidualBudget
from ifru_dist.pipelines.routing import Routed, Router
from ifru_dist.pipelines.solving import SolveFlags, chosen_damping
from ifru_dist.pipelines.unlearn_report import BatchResult, dry_run_summary, unlearn_report, unlearn_summary
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.solo import WorkerGroup
from ifru_dist.workspace.commits import Erasure, commit_erasure
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.ledger import read_ledger
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

RETRAINING_DUE = 9
"""Exit status when all is done, but the model is past its residual budget."""


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(SolveFlags, GangFlags):
    """Erase interactions from a trained model and its data, without retraining."""

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    requests: Path
    """Parquet, CSV or JSON lines: columns user, item, optionally scope (interaction, user or item) and request_id."""
    damping: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """c of Lambda (see --anchor): how strongly rows are held where little data holds them; auto: what jobs/calibrate.py
    found for the model, or else 0.4 times sqrt(degree), or what Adam's options say."""
    temperature: Literal["auto"] | Annotated[float, Field(ge=1, allow_inf_nan=False)] = "auto"
    """T of the loss T * l(score / T) by which influence is judged: more than 1 for models whose training was stopped
    early with scores far out; auto: what jobs/calibrate.py found, or else 1."""
    residual_budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Limit of a score: the erased interactions since training, weighted by the share of influence that their batch
    left, over the model's training interactions. Past it the batch is committed, and the job ends with status 9:
    retraining is due."""
    dry_run: bool = False
    """Show what would be erased, and change nothing."""
    max_users: Annotated[int | None, Field(ge=0)] = None
    """Guard: refuse a batch by which more users lose interactions, held-out pairs or their whole row."""
    max_interactions: Annotated[int | None, Field(ge=0)] = None
    """Guard: refuse a batch that erases more training interactions."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/unlearn-VERSION."""


def unlearn(config: UnlearnConfig) -> int:
    """Run the job: one batch of requests, one new version, one report.

    Returns:
        0, also when nothing was left to do because everything was erased before; RETRAINING_DUE when the batch, if
        there was something to do, was committed and what stays unsolved is past the budget.

    Raises:
        IfruError: nothing was committed, and the workspace is as it was.
    """
    started = time.perf_counter()
    config = validated(config)
    requests = read_requests(config.requests)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, None if config.dry_run else workspace.root / "reports")
    with nullcontext() if config.dry_run else workspace.lock("unlearn"):
        result = _UnlearnJob(config, requests, open_version(workspace, check_content=True), started).run()
    if config.dry_run:
        print(dry_run_summary(result, requests))
        return 0
    folder = config.output or workspace.root / "reports" / _report_name(result)
    report = unlearn_report(result, config)
    summary = unlearn_summary(report, result.residual_budget)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return RETRAINING_DUE if result.residual_budget.retraining_due else 0


def _still_held(version: Version, routed: Routed, outcomes: Sequence[Outcome]) -> int:
    """Erased interactions of which something can be left: a row that still stands, or the model's own parameters."""
    if version.model.dense is not None:
        return len(routed.examples)
    pairs_only = len(version.layout.tables) == 2
    rows = routed.pairs if pairs_only else version.all_examples().take(routed.examples).rows
    reset = np.concatenate([*(outcome.emptied.numpy() for outcome in outcomes), routed.forgotten])
    return int((~np.isin(rows, reset)).any(axis=1).sum())


def _report_name(result: BatchResult) -> str:
    """Folder of a report; one of a batch that did nothing must not replace that of the batch which made the version."""
    name = f"unlearn-{result.version_after:06d}"
    return name if result.version_after > result.version_before else f"{name}-nothing-to-do"


class _UnlearnJob:
    """One batch against one version."""

    def __init__(self, config: UnlearnConfig, requests: list[Request], version: Version, started: float) -> None:
        self._config, self._version = config, version
        self._requests = with_integer_ids(requests, version)
        self._started = started
        self._seconds: dict[str, float] = {}
        self._failures: list[str] = []
        manifest, root = version.manifest, version.workspace.root
        config.check_model(version.model.spec)  # also refuses a workspace without a model before anything starts
        key = load_key(config.key_file or version.workspace.default_key_file, manifest.key_fingerprint)
        ledger = read_ledger(root, manifest.requests, manifest.suppression)
        self._router = Router(version, ledger, key, self._requests)
        self._damping = chosen_damping(config.damping, config.temperature, version.model, config)
        self._options = config.solve_options(self._damping)

    def run(self) -> BatchResult:
        """Route, solve, commit."""
        routed, outcomes = self._solve()
        self._refuse_if_nothing_matched(routed)
        before = after = self._version.manifest.version
        budget = self._budget(routed, outcomes)
        rows_updated = 0
        if routed.erases and not self._config.dry_run:
            with self._phase("commit"):
                update = merged_update(self._version, outcomes or [], routed.forgotten)
                after, rows_updated = self._commit(routed, outcomes, update, budget.unsolved), len(update.rows)
        self._seconds["job"] = time.perf_counter() - self._started
        return BatchResult(
            routed=routed,
            outcomes=outcomes,
            version_before=before,
            version_after=after,
            rows_updated=rows_updated,
            damping=self._damping,
            residual_budget=budget,
            options=self._options,
            seconds=self._seconds,
            failed_attempts=self._failures,
        )

    def _solve(self) -> tuple[Routed, list[Outcome] | None]:
        """Find the examples and solve, on a gang; without a gang when every request is settled already."""
        if self._router.settled:
            return self._router.route([]), None
        return run_on_workers(self._version, self._config, self._work, self._note_failure)

    def _work(self, gang: WorkerGroup) -> tuple[Routed, list[Outcome] | None]:
        """The part that a fresh gang can do again: it has no effect outside the gang."""
        self._seconds["startup"] = time.perf_counter() - self._started
        with self._phase("route"):
            routed = self._router.route(gang.call("find", self._router.targets))
            if not self._config.dry_run:
                self._guard(routed)
        if self._config.dry_run or len(routed.examples) == 0:
            return routed, None
        say(f"erasing {len(routed.examples)} interactions")
        with self._phase("gang"):
            outcomes = gang.call("solve", routed.examples, self._options)
        return routed, outcomes

    def _guard(self, routed: Routed) -> None:
        """Refuse a batch that is larger than the guards allow."""
        users = len(routed.users)
        for name, seen, limit in (
            ("--max-users", users, self._config.max_users),
            ("--max-interactions", len(routed.examples), self._config.max_interactions),
        ):
            if limit is not None and seen > limit:
                raise GuardError(
                    f"{name} = {limit}, but these requests erase {len(routed.examples)} interactions of {users} users: "
                    "check the requests with --dry-run, then raise the guard or split the file"
                )

    def _budget(self, routed: Routed, outcomes: list[Outcome] | None) -> ResidualBudget:
        """What stays unsolved, with this batch where it was solved."""
        return ResidualBudget(
            trained=self._version.trained_interactions,
            spent_before=self._version.model.unsolved_interactions,
            unsolved=outcomes[0].influence_residual * _still_held(self._version, routed, outcomes) if outcomes else 0.0,
            budget=self._config.residual_budget,
        )

    def _refuse_if_nothing_matched(self, routed: Routed) -> None:
        """A file of which not one request fits the data is more likely a mistake than a deletion."""
        counts = routed.counts()
        if counts["applied"] or counts["duplicate"]:
            return
        examples = [
            f"row {row}: {request.describe()}: {entry.reason}"
            for row, (request, entry) in enumerate(zip(self._requests, routed.entries, strict=True), start=1)
        ][:3]
        raise InputError(
            f"none of the {counts['received']} requests of {self._config.requests} matches the data "
            f"({'; '.join(examples)}): check the ids and the columns; nothing was changed"
        )

    def _commit(self, routed: Routed, outcomes: list[Outcome] | None, update: MergedUpdate, unsolved: float) -> int:
        """Commit the batch; returns the new version."""
        erasure = Erasure(
            examples=routed.examples,
            rows=update.rows,
            values=update.values,
            dense=update.dense,
            requests=routed.entries,
            suppressed=routed.suppressed,
            forgotten=routed.forgotten,
            held_out=routed.held_out.positions,
            unsolved_interactions=unsolved,
            summary={
                "interactions_erased": len(routed.examples),
                "rows_updated": len(update.rows),
                "rows_forgotten": len(routed.forgotten),
                "held_out_erased": len(routed.held_out.rows),
                "damping": self._options.damping,
                "influence_residual": outcomes[0].influence_residual if outcomes else None,
            },
        )
        return commit_erasure(self._version, erasure).version

    def _note_failure(self, failure: Failure) -> None:
        """Say that an attempt failed, and keep it for the report."""
        self._failures.append(failure.message)
        say(f"attempt {failure.attempt} failed: {failure.message}")

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase of the job."""
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start
