"""Erasing batches of requests from a workspace, one version each, with workers that stand from batch to batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.errors import GuardError
from ifru_dist.influence.outcome import Outcome
from ifru_dist.pipelines.gangs import GangFlags, Workers
from ifru_dist.pipelines.merging import MergedUpdate, merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.requests import Request, with_integer_ids
from ifru_dist.pipelines.residual_budget import ResidualBudget, still_held
from ifru_dist.pipelines.routing import Lookups, Routed, Router
from ifru_dist.pipelines.solving import SolveFlags, chosen_damping
from ifru_dist.pipelines.unlearn_report import BatchResult
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.solo import WorkerGroup
from ifru_dist.sharding.worker import Change
from ifru_dist.workspace.commits import Erasure, commit_erasure
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.ledger import read_ledger
from ifru_dist.workspace.version import Version, open_version

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EraseFlags(SolveFlags, GangFlags):
    """Options of batches of requests."""

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
    max_users: Annotated[int | None, Field(ge=0)] = None
    """Guard: refuse a batch by which more users lose interactions, held-out pairs or their whole row."""
    max_interactions: Annotated[int | None, Field(ge=0)] = None
    """Guard: refuse a batch that erases more training interactions."""
    key_file: Path | None = None
    """Key of the audit digests; default: beside the workspace, its name with .key."""


class Eraser:
    """The coordinator of a workspace's batches. The caller holds the lock, unless batches are only looked at."""

    def __init__(self, version: Version, flags: EraseFlags, workers: Workers) -> None:
        """Go on from a version.

        Raises:
            IfruError: it has no model, its key is missing, or an option does not fit it.
        """
        self.version, self.flags, self.workers = version, flags, workers
        flags.check_model(version.model.spec)  # also refuses a workspace without a model before anything starts
        manifest, root = version.manifest, version.workspace.root
        self.key = load_key(flags.key_file or version.workspace.default_key_file, manifest.key_fingerprint)
        self.ledger = read_ledger(root, manifest.requests, manifest.suppression, manifest.released)
        self.lookups = Lookups()
        self.damping = chosen_damping(flags.damping, flags.temperature, version.model, flags)
        self.options = flags.solve_options(self.damping)

    def look(self, requests: Sequence[Request]) -> BatchResult:
        """What erasing some requests would erase; nothing is changed."""
        batch = _Batch(self, requests)
        return batch.result(batch.route())

    def erase(self, requests: Sequence[Request], check: Callable[[Routed], None] = lambda routed: None) -> BatchResult:
        """Erase what some requests name, as one new version; none where every one of them was settled before.

        A batch that erases nothing is a version, too, where the ledger has something to learn from it.

        Args:
            requests: the batch.
            check: raises where the batch must not be erased, knowing what it would erase.

        Raises:
            IfruError: nothing was committed, and the workspace is as it was.
        """
        batch = _Batch(self, requests)
        routed = batch.route()
        check(routed)
        _guard(routed, self.flags)
        return self._commit(batch, routed, batch.solve(routed))

    def reject(self, requests: Sequence[Request], reason: str) -> BatchResult:
        """Erase nothing of what some requests name, and let the ledger say why, as one new version."""
        batch = _Batch(self, requests)
        return self._commit(batch, batch.rejected(reason), None)

    def _commit(self, batch: "_Batch", routed: Routed, outcomes: list[Outcome] | None) -> BatchResult:
        """Make a batch a version, and go on from it; neither where it erases nothing and the ledger knows it."""
        result = batch.result(routed, outcomes)
        if not routed.erases and not self.ledger.lacks(routed.entries):
            return result
        with batch.phase("commit"):
            update = merged_update(self.version, outcomes or [], routed.forgotten)
            manifest = commit_erasure(self.version, _erasure(result, update))
        self._advance(routed, update, manifest.version)
        return batch.committed(result, manifest.version, len(update.rows))

    def _advance(self, routed: Routed, update: MergedUpdate, number: int) -> None:
        """Go on to the version that was committed."""
        workspace = self.version.workspace
        self.version = open_version(workspace, number)
        self.ledger.add(routed.entries, routed.suppressed, number)
        change = Change(
            version=number,
            digest=workspace.digest(number),
            examples=routed.examples,
            touched=routed.rows.flatten(),
            rows=update.rows,
            values=update.values,
        )
        self.workers.advance(change)


class _Batch:
    """One batch against one version."""

    def __init__(self, eraser: Eraser, requests: Sequence[Request]) -> None:
        self._eraser, self._version, self._started = eraser, eraser.version, time.perf_counter()
        self._seconds = {"startup": 0.0}
        self._failures: list[str] = []
        requests = with_integer_ids(requests, self._version)
        self._router = Router(self._version, eraser.ledger, eraser.key, requests, eraser.lookups)

    def route(self) -> Routed:
        """Find the examples; without workers when every request is settled already."""
        if self._router.settled:
            return self._router.route([])
        return self._run("route", lambda gang: self._router.route(gang.call("find", self._router.targets)))

    def rejected(self, reason: str) -> Routed:
        """The batch with nothing to erase, every request of it rejected."""
        return self._router.rejected(reason)

    def solve(self, routed: Routed) -> list[Outcome] | None:
        """Unlearn the examples; none where the model was trained on none of them: they only leave the data."""
        trained = self._trained(routed)
        examples, rows = routed.examples[trained], routed.rows[trained]
        if len(examples) == 0:
            return None
        say(f"erasing {len(routed.examples)} interactions")
        return self._run("gang", lambda gang: gang.call("solve", examples, self._eraser.options, rows))

    def result(self, routed: Routed, outcomes: list[Outcome] | None = None) -> BatchResult:
        """What became of the batch, so far as nothing was committed."""
        number = self._version.manifest.version
        self._seconds["job"] = time.perf_counter() - self._started
        return BatchResult(
            routed=routed,
            outcomes=outcomes,
            version_before=number,
            version_after=number,
            rows_updated=0,
            damping=self._eraser.damping,
            residual_budget=self._budget(routed, outcomes),
            options=self._eraser.options,
            seconds=self._seconds,
            failed_attempts=self._failures,
        )

    def committed(self, result: BatchResult, version: int, rows_updated: int) -> BatchResult:
        """The result once it is in a version."""
        self._seconds["job"] = time.perf_counter() - self._started
        return replace(result, version_after=version, rows_updated=rows_updated)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of the batch."""
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def _run(self, phase: str, work: Callable[[WorkerGroup], Result]) -> Result:
        """Let the workers do a phase, which a fresh gang can do again; their start is counted by itself."""
        asked = time.perf_counter()

        def timed(gang: WorkerGroup) -> Result:
            self._seconds["startup"] += time.perf_counter() - asked
            with self.phase(phase):
                return work(gang)

        return self._eraser.workers.run(self._version, timed, self._note_failure)

    def _budget(self, routed: Routed, outcomes: list[Outcome] | None) -> ResidualBudget:
        """What stays unsolved, with this batch where it was solved."""
        version = self._version
        return ResidualBudget(
            trained=version.trained_interactions,
            spent_before=version.model.unsolved_interactions,
            unsolved=outcomes[0].influence_residual * self._still_held(routed, outcomes) if outcomes else 0.0,
            budget=self._eraser.flags.residual_budget,
        )

    def _still_held(self, routed: Routed, outcomes: list[Outcome]) -> int:
        """Erased interactions of which something can be left."""
        trained = self._trained(routed)
        return still_held(self._version, routed.rows[trained], outcomes, routed.forgotten)

    def _trained(self, routed: Routed) -> NDArray[np.bool_]:
        """Mask of a batch's examples, (examples,): those that the model was trained on."""
        return routed.examples < self._version.trained_bound

    def _note_failure(self, failure: Failure) -> None:
        """Say that an attempt failed, and keep it for the report."""
        self._failures.append(failure.message)
        say(f"attempt {failure.attempt} failed: {failure.message}")


def _guard(routed: Routed, flags: EraseFlags) -> None:
    """Refuse a batch that is larger than the guards allow."""
    users = len(routed.users)
    for name, seen, limit in (
        ("--max-users", users, flags.max_users),
        ("--max-interactions", len(routed.examples), flags.max_interactions),
    ):
        if limit is not None and seen > limit:
            raise GuardError(
                f"{name} = {limit}, but these requests erase {len(routed.examples)} interactions of {users} users: "
                "check the requests with --dry-run, then raise the guard or split the file"
            )


def _erasure(result: BatchResult, update: MergedUpdate) -> Erasure:
    """What is committed of a batch."""
    routed, outcomes = result.routed, result.outcomes
    return Erasure(
        examples=routed.examples,
        rows=update.rows,
        values=update.values,
        dense=update.dense,
        requests=routed.entries,
        suppressed=routed.suppressed,
        forgotten=routed.forgotten,
        held_out=routed.held_out.positions,
        unsolved_interactions=result.residual_budget.unsolved,
        summary={
            "interactions_erased": len(routed.examples),
            "rows_updated": len(update.rows),
            "rows_forgotten": len(routed.forgotten),
            "held_out_erased": len(routed.held_out.rows),
            "damping": result.damping.value,
            "influence_residual": outcomes[0].influence_residual if outcomes else None,
        },
    )
