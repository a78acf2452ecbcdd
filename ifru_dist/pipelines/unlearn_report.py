"""What jobs/unlearn.py reports: report.json, its summary in words, and the listing of a dry run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from ifru_dist.config import as_dict
from ifru_dist.influence.options import REMEDIES, SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.pipelines.residual_budget import ResidualBudget
from ifru_dist.pipelines.routing import Routed
from ifru_dist.pipelines.solving import ChosenDamping

LISTED = 20
"""Requests that a listing shows at most."""
NOT_APPLIED_LISTED = 1000
"""Requests that the report lists at most; the ledger holds them all."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What became of one batch."""

    routed: Routed
    outcomes: list[Outcome] | None
    """By rank; None when there was nothing to solve."""
    version_before: int
    version_after: int
    rows_updated: int
    damping: ChosenDamping
    residual_budget: ResidualBudget
    options: SolveOptions
    seconds: dict[str, float]
    failed_attempts: list[str]


def unlearn_report(result: BatchResult, config: Any) -> dict[str, Any]:
    """The report of a batch; docs/reports.md says what each key means. It names no user and no item."""
    seconds = result.seconds
    return {
        "job": "unlearn",
        "version_before": result.version_before,
        "version_after": result.version_after,
        "workers": config.workers,
        "requests": result.routed.counts(),
        "not_applied": list(islice(_not_applied(result.routed), NOT_APPLIED_LISTED)),
        "interactions_erased": len(result.routed.examples),
        "users_touched": len(np.unique(result.routed.rows[:, 0])),
        "items_touched": len(np.unique(result.routed.rows[:, 1])),
        "rows_updated": result.rows_updated,
        "rows_forgotten": len(result.routed.forgotten),
        "held_out_erased": len(result.routed.held_out.rows),
        **_solver_report(result),
        "residual_budget": result.residual_budget.as_report(),
        "seconds": {
            "total": sum(seconds.get(phase, 0.0) for phase in ("route", "gang", "commit")),
            "route": seconds.get("route", 0.0),
            **_slowest(result.outcomes),
            "commit": seconds.get("commit", 0.0),
            "startup": seconds.get("startup", 0.0),
            "job": seconds["job"],
        },
        "failed_attempts": result.failed_attempts,
        "config": as_dict(config),
    }


def unlearn_summary(report: dict[str, Any], budget: ResidualBudget) -> str:
    """The report in words."""
    requests = report["requests"]
    lines = [
        f"requests: {requests['received']} received, {requests['applied']} applied, {requests['duplicate']} erased "
        f"before, {requests['not_found']} not found, {requests['rejected']} rejected"
    ]
    if report["version_after"] == report["version_before"]:
        lines.append(f"nothing to do: version {report['version_after']} stays current")
        return "\n".join([*lines, budget.in_words()])
    reset = report["subgraph"]["rows_reset"] if report["subgraph"] else report["rows_updated"]
    went = f"version {report['version_before']} -> {report['version_after']}"
    if not requests["applied"]:
        lines.append(f"{went}: nothing to erase; the ledger holds what became of the requests")
        return "\n".join([*lines, budget.in_words()])
    lines.append(
        f"{went}: {report['interactions_erased']} interactions of {report['users_touched']} users erased, "
        f"{report['rows_updated']} rows updated ({reset} of them reset)"
    )
    if report["rows_forgotten"] or report["held_out_erased"]:
        lines.append(_forgotten_in_words(report["rows_forgotten"], report["held_out_erased"]) + " erased")
    lines += _solver_summary(report) if report["solver"] else []
    return "\n".join([*lines, budget.in_words()])


def batch_line(result: BatchResult) -> str:
    """A batch among many, in one line."""
    counts, seconds = result.routed.counts(), result.seconds
    went = f"version {result.version_before} -> {result.version_after}"
    if result.version_after == result.version_before:
        went = f"version {result.version_after} stays: nothing to do"
    return (
        f"{went}: {counts['received']} requests ({counts['applied']} applied, {counts['duplicate']} erased before, "
        f"{counts['not_found']} not found, {counts['rejected']} rejected), {len(result.routed.examples)} interactions, "
        f"{seconds['job'] - seconds['startup']:.2f} s"
    )


def _forgotten_in_words(rows: int, held_out: int) -> str:
    """What goes besides training interactions."""
    return f"{rows} users and items with their ids, and {held_out} validation and test pairs"


def _solver_summary(report: dict[str, Any]) -> list[str]:
    """How the solve went, in lines."""
    solver, seconds = report["solver"], report["seconds"]
    lines = [
        f"solver: {solver['status']}, {solver['newton_steps']} Newton steps with {solver['iterations']} iterations, "
        f"damping {solver['damping']} ({solver['damping_source']})",
        f"influence residual: {report['influence_residual']:.4f} (1 = untouched, 0 = gone to first order)",
        f"seconds: {seconds['total']:.2f} for the batch, {seconds['startup']:.2f} to start the workers",
    ]
    if report["influence_residual"] > 0.99:
        lines.append(
            "note: the residual did not fall, which says little of a model that was stopped early: compare with "
            "retraining by jobs/evaluate.py --against retrain"
        )
    return lines + [f"note: {solver[key]}" for key in ("remedy", "damping_note") if solver[key]]


def dry_run_summary(result: BatchResult) -> str:
    """What would be erased, by request; their rows in the file stand for what they name, as logs are kept."""
    routed, counts = result.routed, result.routed.counts()
    lines = [
        f"dry run: {len(routed.examples)} interactions of {len(routed.users)} users would be erased; requests: "
        + ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items()),
        _forgotten_in_words(len(routed.forgotten), len(routed.held_out.rows)) + " would go, too",
    ]
    entries = result.routed.entries
    for row, entry in enumerate(entries, start=1):
        if row > LISTED:
            lines.append(f"  ... and {len(entries) - LISTED} more")
            break
        what = f"{entry.interactions} interactions" if entry.status == "applied" else entry.reason
        lines.append(f"  row {row}: {entry.scope}: {entry.status.replace('_', ' ')}, {what}")
    lines.append(result.residual_budget.in_words())
    return "\n".join([*lines, f"nothing was changed: version {result.version_after} stays current"])


def _not_applied(routed: Routed) -> Iterator[dict[str, Any]]:
    """The requests that were not applied, and why."""
    for row, entry in enumerate(routed.entries, start=1):
        if entry.status != "applied":
            yield {"row": row, "request_id": entry.request_id, "status": entry.status, "reason": entry.reason}


def _solver_report(result: BatchResult) -> dict[str, Any]:
    """Subgraph, solver and certificate; None where nothing was solved."""
    if result.outcomes is None:
        return {"subgraph": None, "solver": None, "influence_residual": None, "bytes_exchanged": 0}
    first = result.outcomes[0]
    last = [entry for entry in first.rounds if entry.kept][-1]
    return {
        "subgraph": {
            "rows": last.rows,
            "edges": last.edges,
            "importance": result.options.importance,
            "hops": result.options.hops if result.options.importance == "degree" else None,
            "rounds": [asdict(entry) for entry in first.rounds],
            "rows_reset": result.rows_updated - sum(len(outcome.rows) for outcome in result.outcomes),
        },
        "solver": {
            "newton_steps": first.newton_steps,
            "iterations": first.iterations,
            "relative_residual": first.relative_residual,
            "stationarity": first.stationarity,
            "damping": result.damping.value,
            "damping_source": result.damping.source,
            "damping_note": result.damping.note,
            "anchor": result.damping.anchor.kind,
            "anchor_scale": result.damping.anchor.scale,
            "temperature": result.damping.temperature,
            "path": result.options.path,
            "curvature": result.options.curvature,
            "preconditioner": result.options.preconditioner,
            "product": result.options.product,
            "product_error": first.product_error,
            "dense": result.options.dense,
            "objective_change": first.objective_change,
            "status": first.status,
            "remedy": REMEDIES[first.status],
        },
        "influence_residual": first.influence_residual,
        "bytes_exchanged": sum(outcome.bytes_sent for outcome in result.outcomes),
    }


def _slowest(outcomes: Sequence[Outcome] | None) -> dict[str, float]:
    """Seconds of the slowest worker in each phase."""
    phases = ("subgraph", "gradient", "solve", "verify")
    return {phase: max((o.seconds[phase] for o in outcomes or []), default=0.0) for phase in phases}
