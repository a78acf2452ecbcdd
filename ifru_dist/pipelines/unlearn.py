"""jobs/unlearn.py: erase a file of requests from the data and the model of a workspace, as one new version."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import GuardError, InputError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.influence.damping import DEFAULT_DAMPING
from ifru_dist.influence.update import Outcome, SolveOptions
from ifru_dist.pipelines.merging import merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.ray_session import ray_session
from ifru_dist.pipelines.requests import Request, read_requests
from ifru_dist.pipelines.routing import Routed, Router
from ifru_dist.pipelines.unlearn_report import BatchResult, dry_run_summary, unlearn_report, unlearn_summary
from ifru_dist.sharding.gang import Gang, GangOptions, plans_for, with_gang
from ifru_dist.sharding.placement import assign_partitions
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.worker import WorkerPlan
from ifru_dist.workspace.commits import Erasure, commit_erasure
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.ledger import read_ledger
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """Erase interactions from a trained model and its data, without retraining."""

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    requests: Path
    """Parquet, CSV or JSON lines: columns user, item, optionally scope (interaction, user or item) and request_id."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Shard actors that solve together."""
    gpus_per_worker: Literal[0, 1] = 0
    """1: each worker computes on a GPU of its own."""
    hops: Annotated[int, Field(ge=0, le=3)] = 1
    """How far from the erased endpoints rows may move; counts only with a --row-budget."""
    row_budget: Annotated[int, Field(ge=0)] = 0
    """Rows that may move at most. The erased endpoints always may, so with 0 only they do; resets come on top."""
    newton_steps: Annotated[int, Field(ge=1)] = 1
    """Anchored Gauss-Newton steps; a second one comes closer to retraining and costs half as much again."""
    damping: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """c of Lambda = c * sqrt(degree): how strongly rows are held where little data holds them."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Relative residual at which the linear solve of a Newton step stops; the next step corrects what is left of it."""
    max_iterations: Annotated[int, Field(ge=1)] = 200
    """Conjugate gradient iterations per Newton step at most."""
    dry_run: bool = False
    """Show what would be erased, and change nothing."""
    max_users: Annotated[int | None, Field(ge=0)] = None
    """Guard: refuse a batch that erases interactions of more users."""
    max_interactions: Annotated[int | None, Field(ge=0)] = None
    """Guard: refuse a batch that erases more interactions."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a failed gang is rebuilt and the batch tried again."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """How long to wait for room on the cluster."""
    collective_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """How long workers wait for a silent peer before the gang is given up."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/unlearn-VERSION."""


def unlearn(config: UnlearnConfig) -> int:
    """Run the job: one batch of requests, one new version, one report.

    Returns:
        0, also when nothing was left to do because everything was erased before.

    Raises:
        IfruError: nothing was committed, and the workspace is as it was.
    """
    started = time.perf_counter()
    config = validated(config)
    check_output(config.output)
    requests = read_requests(config.requests)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    with nullcontext() if config.dry_run else workspace.lock("unlearn"):
        result = _UnlearnJob(config, requests, open_version(workspace, check_content=True), started).run()
    if config.dry_run:
        print(dry_run_summary(result, requests))
        return 0
    folder = config.output or workspace.root / "reports" / _report_name(result)
    report = unlearn_report(result, config)
    write_report(folder, report, unlearn_summary(report))
    print(f"{unlearn_summary(report)}\nreport: {folder}")
    return 0


def _report_name(result: BatchResult) -> str:
    """Folder of a report; one of a batch that did nothing must not replace that of the batch which made the version."""
    name = f"unlearn-{result.version_after:06d}"
    return name if result.version_after > result.version_before else f"{name}-nothing-to-do"


class _UnlearnJob:
    """One batch against one version."""

    def __init__(self, config: UnlearnConfig, requests: list[Request], version: Version, started: float) -> None:
        self._config, self._version, self._requests = config, version, requests
        self._started = started
        self._seconds: dict[str, float] = {}
        self._failures: list[str] = []
        manifest, root = version.manifest, version.workspace.root
        version.model  # noqa: B018  a workspace without a model is refused before anything starts
        key = load_key(config.key_file or version.workspace.default_key_file, manifest.key_fingerprint)
        ledger = read_ledger(root, manifest.requests, manifest.suppression)
        self._router = Router(version, ledger, key, requests)
        self._options = SolveOptions(
            damping=DEFAULT_DAMPING if config.damping == "auto" else config.damping,
            newton_steps=config.newton_steps,
            hops=config.hops if config.row_budget else 0,
            row_budget=config.row_budget,
            tolerance=config.tolerance,
            max_iterations=config.max_iterations,
        )

    def run(self) -> BatchResult:
        """Route, solve, commit."""
        routed, outcomes = self._solve()
        self._refuse_if_nothing_matched(routed)
        before = after = self._version.manifest.version
        rows = np.empty(0, np.int64)
        if outcomes is not None:
            with self._phase("commit"):
                rows, values = merged_update(self._version, outcomes)
                after = self._commit(routed, outcomes, rows, values)
        self._seconds["job"] = time.perf_counter() - self._started
        return BatchResult(
            routed=routed,
            outcomes=outcomes,
            version_before=before,
            version_after=after,
            rows_updated=len(rows),
            options=self._options,
            seconds=self._seconds,
            failed_attempts=self._failures,
        )

    def _solve(self) -> tuple[Routed, list[Outcome] | None]:
        """Find the examples and solve, on a gang; without a gang when every request is settled already."""
        if self._router.settled:
            return self._router.route([]), None
        config = self._config
        say(f"starting {config.workers} workers for version {self._version.manifest.version}")
        owned = assign_partitions(self._version.partition_edges(), config.workers)
        plan = WorkerPlan(
            workspace=self._version.workspace.root,
            version=self._version.manifest.version,
            digest=self._version.workspace.digest(self._version.manifest.version),
            owned=tuple(tuple(partitions) for partitions in owned),
            rank=0,
            device="cuda" if config.gpus_per_worker else "cpu",
            threads=1,
            timeout_s=config.collective_timeout_s,
        )
        options = GangOptions(
            gpus_per_worker=config.gpus_per_worker,
            start_timeout_s=config.start_timeout_s,
        )
        with ray_session(config.workers):
            return with_gang(
                plans_for(plan),
                options,
                self._work,
                max_retries=config.max_retries,
                on_failure=self._note_failure,
            )

    def _work(self, gang: Gang) -> tuple[Routed, list[Outcome] | None]:
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
        users = len(np.unique(routed.pairs[:, 0]))
        for name, seen, limit in (
            ("--max-users", users, self._config.max_users),
            ("--max-interactions", len(routed.examples), self._config.max_interactions),
        ):
            if limit is not None and seen > limit:
                raise GuardError(
                    f"{name} = {limit}, but these requests erase {len(routed.examples)} interactions of {users} users: "
                    "check the requests with --dry-run, then raise the guard or split the file"
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
            f"none of the {counts['received']} requests of {self._config.requests} matches the training data "
            f"({'; '.join(examples)}): check the ids and the columns; nothing was changed"
        )

    def _commit(
        self, routed: Routed, outcomes: list[Outcome], rows: NDArray[np.int64], values: NDArray[np.float32]
    ) -> int:
        """Commit the batch; returns the new version."""
        erasure = Erasure(
            examples=routed.examples,
            rows=rows,
            values=values,
            requests=routed.entries,
            suppressed=routed.suppressed,
            summary={
                "interactions_erased": len(routed.examples),
                "rows_updated": len(rows),
                "damping": self._options.damping,
                "influence_residual": outcomes[0].influence_residual,
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
