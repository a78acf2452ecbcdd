"""jobs/calibrate.py: find the damping with which unlearning comes closest to retraining, for a workspace's model."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import GangError, SolveError
from ifru_dist.evaluation.report import check_output, figure, markdown_table, write_report
from ifru_dist.influence.options import REMEDIES, USABLE, Status
from ifru_dist.influence.outcome import Outcome
from ifru_dist.models.factory import build_model
from ifru_dist.models.parameters import Parameters
from ifru_dist.pipelines.calibration_curve import (
    CurvePoint,
    best_curve,
    best_point,
    curve_notes,
    damping_at_vertex,
    damping_beyond,
    dampings_between,
)
from ifru_dist.pipelines.calibration_judge import Judge, Seen
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.gangs import GangFlags, run_on_workers
from ifru_dist.pipelines.merging import merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.references import calibration_seed, train_reference
from ifru_dist.pipelines.requests import Request, read_requests, with_integer_ids
from ifru_dist.pipelines.solving import ChosenDamping, SolveFlags, chosen_anchor
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.solo import WorkerGroup
from ifru_dist.training.loop import Fitted
from ifru_dist.workspace.commits import commit_calibration
from ifru_dist.workspace.manifest import Calibration
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

Damping = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Temperature = Annotated[float, Field(ge=1, allow_inf_nan=False)]

_EXTENSIONS = 4
"""How often a grid whose best value is its first or last one is extended."""


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(SolveFlags, GangFlags):
    """Find the damping for a model: unlearn a sample of its training pairs with several, and retrain once without it.

    Give the solver options that jobs/unlearn.py will be given. By default the sample is solved 14 to 18 times for each
    temperature, which may take many times as long as the one retraining; the workspace is held for all of it.
    """

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    dampings: Annotated[tuple[Damping, ...], Field(min_length=1)] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    """Values of c to try, of Lambda (see --anchor)."""
    temperatures: Literal["auto"] | Annotated[tuple[Temperature, ...], Field(min_length=1)] = "auto"
    """Temperatures of the loss to try; auto: 1, 1.5 and 2 for graph models that were stopped early, 1 for others."""
    refine: Annotated[int, Field(ge=0)] = 3
    """Further values to try on either side of the best one, between it and its neighbours; then one more, where a
    parabola through the best three is lowest."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the training pairs to sample."""
    max_sample: Annotated[int, Field(ge=1)] = 20_000
    """Pairs to sample at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sample; that of the retraining is a hash of the model's and this, so that evaluation's references,
    whose seeds follow the model's, are other models."""
    exclude: Path | None = None
    """Requests whose pairs stay out of the sample: those that are to be erased, where the result is to be judged."""
    dry_run: bool = False
    """Report what was found, and keep the workspace as it is."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/calibrate-VERSION."""


def calibrate(config: CalibrateConfig) -> int:
    """Run the job: one new version, in which only the model's calibration differs, and a report.

    Returns:
        0; the status of a SolveError when no damping came closer to retraining than doing nothing: then there is a
        report, but no version.

    Raises:
        IfruError: nothing was committed, and the workspace is as it was.
    """
    started = time.perf_counter()
    config = validated(config)
    exclude = read_requests(config.exclude, "--exclude") if config.exclude else []
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, workspace.root / "reports")
    with nullcontext() if config.dry_run else workspace.lock("calibrate"):
        job = _CalibrateJob(config, exclude, open_version(workspace, check_content=True), started)
        report = job.run()
    name = f"calibrate-{report['version_after']:06d}" + ("-dry-run" if config.dry_run else "")
    folder, summary = config.output or workspace.root / "reports" / name, calibrate_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0 if report["usable"] or config.dry_run else SolveError.exit_code


def calibrate_summary(report: dict[str, Any]) -> str:
    """The report in words, with the curve as a table."""
    sample, gap = report["sample"], report["gap"]
    by_ranks = ("rank_shift",) if report["rank_shift"] is not None else ()
    shown = (
        "damping",
        "temperature",
        "gap",
        "relative_gap",
        *by_ranks,
        "logloss_sample",
        "influence_residual",
        "status",
    )
    kept = "a dry run changes nothing" if report["config"]["dry_run"] else "jobs/unlearn.py takes it from here on"
    kept = kept if report["usable"] else "not kept: see the notes"
    lines = [
        f"damping {report['damping']:.4g} (anchor {report['anchor']}, temperature {report['temperature']:g}) comes "
        f"closest to retraining ({kept})",
        f"gap on {sample['interactions']} sampled interactions: {figure(gap)}; of doing nothing: "
        f"{figure(report['gap_do_nothing'])}",
        *_rank_lines(report),
        "",
        markdown_table([{key: point[key] for key in shown} for point in report["curve"]]),
        "",
        "log loss on the sample: "
        + ", ".join(f"{name} {figure(value)}" for name, value in report["logloss_sample"].items()),
        f"seconds: {report['seconds']['solve']:.2f} to solve, {report['seconds']['retrain']:.2f} to retrain",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def _rank_lines(report: dict[str, Any]) -> list[str]:
    """What a model that was trained to rank is judged by."""
    if report["rank_shift"] is None:
        return []
    shift, nothing = figure(report["rank_shift"]), figure(report["rank_shift_do_nothing"])
    return [
        f"mean log rank of these less retraining's, by which dampings are judged: {shift}; of doing nothing: {nothing}"
    ]


@dataclass(frozen=True, kw_only=True)
class _Unlearned:
    """The sample unlearned with one damping."""

    damping: float
    temperature: float
    status: Status
    iterations: list[int]
    influence_residual: float
    seen: Seen | None
    """None where there is no usable update."""


class _CalibrateJob:
    """One calibration of one version's model."""

    def __init__(self, config: CalibrateConfig, exclude: list[Request], version: Version, started: float) -> None:
        self._config, self._version, self._started = config, version, started
        config.check_model(version.model.spec)
        self._parameters, self._anchor = version.parameters(), chosen_anchor(version.model, config)
        excluded = with_integer_ids(exclude, version)
        self._sample = draw_sample(version, config.share, config.max_sample, config.seed, excluded)
        self._judge = Judge(version, self._sample, self._retrain)
        self._seconds = {"solve": 0.0, "retrain": 0.0}
        self._failures: list[str] = []
        self._notes: list[str] = []

    def run(self) -> dict[str, Any]:
        """Find the damping and commit it; returns the report (docs/reports.md says what each key means)."""
        curves = self._curves()
        curve = best_curve(curves)
        best, before = best_point(curve), self._version.manifest.version
        after, usable = before, best.closer_than(self._judge.nothing)
        if usable and not self._config.dry_run:
            after = commit_calibration(self._version, self._calibration(best)).version
        return {
            "job": "calibrate",
            "version_before": before,
            "version_after": after,
            "workers": self._config.workers,
            "model": asdict(self._version.model.spec),
            "sample": {
                "interactions": len(self._sample.examples),
                "pairs": len(np.unique(self._sample.sampled.pairs, axis=0)),
                "excluded": self._sample.excluded,
                "seed": self._config.seed,
            },
            "damping": best.damping,
            "anchor": self._anchor.kind,
            "anchor_scale": self._anchor.scale,
            "temperature": best.temperature,
            "usable": usable,
            "gap": best.gap,
            "rank_shift": best.rank_shift,
            "rank_shift_do_nothing": self._judge.rank_shift(self._judge.original),
            "gap_do_nothing": self._judge.gap(self._judge.original),
            "curve": [asdict(point) for each in curves for point in each],
            "logloss_sample": {
                "original": self._judge.logloss(self._judge.original),
                "unlearned": best.logloss_sample,
                "retrained": self._judge.logloss(self._judge.retrained),
            },
            "notes": [*self._notes, *curve_notes(curve, best, usable=usable)],
            "seconds": {**self._seconds, "total": time.perf_counter() - self._started},
            "failed_attempts": self._failures,
            "config": as_dict(self._config),
        }

    def _calibration(self, best: CurvePoint) -> Calibration:
        """What the model's record keeps."""
        assert best.gap is not None
        return Calibration(
            damping=best.damping,
            gap=best.gap,
            gap_do_nothing=self._judge.gap(self._judge.original),
            interactions=len(self._sample.examples),
            seed=self._config.seed,
            version=self._version.manifest.version,
            solver=self._config.solver_settings(),
            anchor=self._anchor.kind,
            temperature=best.temperature,
        )

    @property
    def _temperatures(self) -> tuple[float, ...]:
        """Those to try, ascending."""
        if self._config.temperatures != "auto":
            return tuple(sorted(set(self._config.temperatures)))
        graph = len(build_model(self._version.model.spec).layer_weights) > 1
        return (1.0, 1.5, 2.0) if graph and self._anchor.kind == "gradient" else (1.0,)

    def _curves(self) -> list[list[CurvePoint]]:
        """For each temperature how close each damping comes, ascending: the grid, then some around the best of them.

        All grids are solved before the retraining, so that failures come early.
        """
        grids = self._grids()
        curves = [self._points(grid) for grid in grids]
        try:
            for curve in curves:
                self._refine(curve)
        except GangError as error:  # a retraining may have taken hours since the workers were there
            self._notes.append(f"the best damping was not refined: {error}")
        return curves

    def _refine(self, curve: list[CurvePoint]) -> None:
        """Add points beyond an end that is the best, between the best and its neighbours, and where these point to."""
        if not any(point.gap is not None for point in curve):
            return
        for _ in range(_EXTENSIONS):
            if (further := damping_beyond(curve)) is None or not self._config.refine:
                break
            self._add(curve, {further})
        self._add(curve, dampings_between(curve, self._config.refine))
        if self._config.refine and (vertex := damping_at_vertex(curve)) is not None:
            self._add(curve, {vertex})

    def _add(self, curve: list[CurvePoint], dampings: set[float]) -> None:
        """Add points at some dampings."""
        curve += self._points(self._solve(dampings, curve[0].temperature))
        curve.sort(key=lambda point: point.damping)

    def _grids(self) -> list[list[_Unlearned]]:
        """For each temperature the sample unlearned with each damping of the grid.

        Raises:
            SolveError: none of them gave a usable update.
        """
        grids = [self._solve(set(self._config.dampings), temperature) for temperature in self._temperatures]
        solved = [entry for grid in grids for entry in grid]
        if all(entry.seen is None for entry in solved):
            ends = {entry.status: entry.damping for entry in solved}
            told = "; ".join(f"{status} with {damping:g}: {REMEDIES[status]}" for status, damping in ends.items())
            raise SolveError(f"the solver gave no usable update with any of --dampings ({told}); nothing was committed")
        return grids

    def _solve(self, dampings: set[float], temperature: float) -> list[_Unlearned]:
        """The sample unlearned with each damping, ascending, by workers that are given back afterwards."""
        if not dampings:
            return []
        ascending, examples = sorted(dampings), self._sample.examples
        first = ChosenDamping(value=ascending[0], source="given", anchor=self._anchor, temperature=temperature)

        def work(gang: WorkerGroup) -> list[_Unlearned]:
            heat = f" at temperature {temperature:g}" if temperature != 1 else ""
            say(f"unlearning {len(examples)} sampled interactions with {len(ascending)} dampings{heat}")
            gang.call("prepare", examples, self._config.solve_options(first))
            return [self._unlearned(first, value, gang.call("solve_prepared", value)) for value in ascending]

        start = time.perf_counter()
        solved = run_on_workers(self._version, self._config, work, self._note_failure)
        self._seconds["solve"] += time.perf_counter() - start
        return solved

    def _unlearned(self, first: ChosenDamping, damping: float, outcomes: Sequence[Outcome]) -> _Unlearned:
        """What is kept of an update, which may be large: how it ended, and the scores of the sample."""
        outcome = outcomes[0]
        seen = self._seen(outcomes) if outcome.status in USABLE else None
        return _Unlearned(
            damping=damping,
            temperature=first.temperature,
            status="not_finite" if outcome.status in USABLE and seen is None else outcome.status,
            iterations=outcome.iterations,
            influence_residual=outcome.influence_residual,
            seen=seen,
        )

    def _seen(self, outcomes: Sequence[Outcome]) -> Seen | None:
        """What the model makes of the sample after a usable solve; None where the update or a score is not finite."""
        try:
            update = merged_update(self._version, outcomes, np.empty(0, np.int64))
        except SolveError:  # of a usable solve: the rounded values are not finite
            return None
        embeddings = self._parameters.embeddings.copy()
        embeddings[update.rows] = update.values
        dense = self._parameters.dense if update.dense is None else update.dense
        seen = self._judge.seen(Parameters(embeddings, dense))
        return seen if seen.finite else None

    def _points(self, solved: Sequence[_Unlearned]) -> list[CurvePoint]:
        """How close each damping comes."""
        return [self._point(entry) for entry in solved]

    def _point(self, entry: _Unlearned) -> CurvePoint:
        """How close one damping comes."""
        judge, gap, loss, shift = self._judge, None, None, None
        do_nothing = judge.gap(judge.original)
        if entry.seen is not None:
            gap, loss, shift = judge.gap(entry.seen), judge.logloss(entry.seen), judge.rank_shift(entry.seen)
        return CurvePoint(
            damping=entry.damping,
            temperature=entry.temperature,
            gap=gap,
            rank_shift=shift,
            relative_gap=gap / do_nothing if gap is not None and do_nothing > 0 else None,
            status=entry.status,
            iterations=entry.iterations,
            influence_residual=entry.influence_residual,
            logloss_sample=loss,
        )

    def _retrain(self) -> Fitted:
        """A model trained without the sample."""
        seed = calibration_seed(self._version.model.options["seed"], self._config.seed)
        say(f"retraining without the sample, on {len(self._sample.kept)} interactions (seed {seed})")
        fitted = train_reference(self._version, self._sample.kept, seed)
        self._seconds["retrain"] = fitted.seconds
        return fitted

    def _note_failure(self, failure: Failure) -> None:
        """Say that an attempt failed, and keep it for the report."""
        self._failures.append(failure.message)
        say(f"attempt {failure.attempt} failed: {failure.message}")
