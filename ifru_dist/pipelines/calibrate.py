"""jobs/calibrate.py: find the damping with which unlearning comes closest to retraining, for a workspace's model."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import GangError, SolveError
from ifru_dist.evaluation.forgetting import logit_gap, logloss
from ifru_dist.evaluation.report import check_output, figure, markdown_table, write_report
from ifru_dist.influence.options import REMEDIES, USABLE
from ifru_dist.influence.update import Outcome
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.calibration_curve import CurvePoint, best_point, curve_notes, dampings_between
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.gangs import GangFlags, run_on_workers
from ifru_dist.pipelines.merging import merged_update
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.references import train_reference
from ifru_dist.pipelines.requests import Request, read_requests
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.solving import SolveFlags
from ifru_dist.sharding.policy import Failure
from ifru_dist.sharding.solo import WorkerGroup
from ifru_dist.workspace.commits import commit_calibration
from ifru_dist.workspace.manifest import Calibration
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

Damping = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(SolveFlags, GangFlags):
    """Find the damping for a model: unlearn a sample of its training pairs with several, and retrain once without it.

    Give the solver options that jobs/unlearn.py will be given. The workspace is held for as long as the retraining
    takes.
    """

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    dampings: Annotated[tuple[Damping, ...], Field(min_length=1)] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    """Values of c to try, of Lambda = c * sqrt(degree)."""
    refine: Annotated[int, Field(ge=0)] = 3
    """Further values to try on either side of the best one, between it and its neighbours."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the training pairs to sample."""
    max_sample: Annotated[int, Field(ge=1)] = 20_000
    """Pairs to sample at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sample; the retraining has the model's seed + 1 + this."""
    exclude: Path | None = None
    """Requests whose pairs stay out of the sample: those that are to be erased, where the result is to be judged."""
    dry_run: bool = False
    """Report what was found, and keep the workspace as it is."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/calibrate-VERSION."""


def calibrate(config: CalibrateConfig) -> int:
    """Run the job: one new version, in which only the model's calibration differs, and a report.

    Raises:
        IfruError: nothing was committed, and the workspace is as it was.
    """
    started = time.perf_counter()
    config = validated(config)
    check_output(config.output)
    exclude = read_requests(config.exclude) if config.exclude else []
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    with nullcontext() if config.dry_run else workspace.lock("calibrate"):
        job = _CalibrateJob(config, exclude, open_version(workspace, check_content=True), started)
        report = job.run()
    name = f"calibrate-{report['version_after']:06d}" + ("-dry-run" if config.dry_run else "")
    folder, summary = config.output or workspace.root / "reports" / name, calibrate_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0


def calibrate_summary(report: dict[str, Any]) -> str:
    """The report in words, with the curve as a table."""
    sample, gap = report["sample"], report["gap"]
    shown = ("damping", "gap", "relative_gap", "logloss_sample", "influence_residual", "status")
    kept = "a dry run changes nothing" if report["config"]["dry_run"] else "jobs/unlearn.py takes it from here on"
    lines = [
        f"damping {report['damping']:.4g} comes closest to retraining ({kept})",
        f"gap on {sample['interactions']} sampled interactions: {figure(gap)}; of doing nothing: "
        f"{figure(report['gap_do_nothing'])}",
        "",
        markdown_table([{key: point[key] for key in shown} for point in report["curve"]]),
        "",
        "log loss on the sample: "
        + ", ".join(f"{name} {figure(value)}" for name, value in report["logloss_sample"].items()),
        f"seconds: {report['seconds']['solve']:.2f} to solve, {report['seconds']['retrain']:.2f} to retrain",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


class _CalibrateJob:
    """One calibration of one version's model."""

    def __init__(self, config: CalibrateConfig, exclude: list[Request], version: Version, started: float) -> None:
        self._config, self._version, self._started = config, version, started
        self._embeddings = version.embeddings()
        self._sample = draw_sample(version, config.share, config.max_sample, config.seed, exclude)
        self._seconds = {"solve": 0.0, "retrain": 0.0}
        self._failures: list[str] = []
        self._notes: list[str] = []

    def run(self) -> dict[str, Any]:
        """Find the damping and commit it; returns the report (docs/reports.md says what each key means)."""
        curve = self._curve()
        best, before = best_point(curve), self._version.manifest.version
        after = before if self._config.dry_run else commit_calibration(self._version, self._calibration(best)).version
        return {
            "job": "calibrate",
            "version_before": before,
            "version_after": after,
            "workers": self._config.workers,
            "model": asdict(self._version.model.spec),
            "sample": {
                "interactions": len(self._sample.examples),
                "pairs": len(np.unique(self._sample.sampled.rows, axis=0)),
                "excluded": self._sample.excluded,
                "seed": self._config.seed,
            },
            "damping": best.damping,
            "gap": best.gap,
            "gap_do_nothing": self._gap(self._original),
            "curve": [asdict(point) for point in curve],
            "logloss_sample": {
                "original": self._logloss(self._original),
                "unlearned": best.logloss_sample,
                "retrained": self._logloss(self._retrained),
            },
            "notes": [*self._notes, *curve_notes(curve, best)],
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
            gap_do_nothing=self._gap(self._original),
            interactions=len(self._sample.examples),
            seed=self._config.seed,
            version=self._version.manifest.version,
            solver=self._config.solver_settings(),
        )

    def _curve(self) -> list[CurvePoint]:
        """How close each damping comes, ascending: those of the grid, then some around the best of them."""
        curve = self._points(self._grid())
        try:
            finer = self._solve(dampings_between(curve, self._config.refine))
        except GangError as error:  # a retraining may have taken hours since the workers were there
            self._notes.append(f"the best damping was not refined: {error}")
            return curve
        return sorted(curve + self._points(finer), key=lambda point: point.damping)

    def _grid(self) -> dict[float, Sequence[Outcome]]:
        """Each damping of the grid with its outcomes by rank; before the retraining, so that failures come early.

        Raises:
            SolveError: the solver gave no usable update with any of them.
        """
        solved = self._solve(set(self._config.dampings))
        if all(outcomes[0].status not in USABLE for outcomes in solved.values()):
            ends = {outcomes[0].status: damping for damping, outcomes in solved.items()}
            told = "; ".join(f"{status} with {damping:g}: {REMEDIES[status]}" for status, damping in ends.items())
            raise SolveError(f"the solver gave no usable update with any of --dampings ({told}); nothing was committed")
        return solved

    def _solve(self, dampings: set[float]) -> dict[float, Sequence[Outcome]]:
        """Each damping with its outcomes by rank, from workers that are given back afterwards."""
        if not dampings:
            return {}
        descending, examples = sorted(dampings, reverse=True), self._sample.examples
        options = self._config.solve_options(descending[0])

        def work(gang: WorkerGroup) -> list[list[Outcome]]:
            say(f"unlearning {len(examples)} sampled interactions with {len(descending)} dampings")
            return gang.call("calibrate", examples, options, descending)

        start = time.perf_counter()
        by_rank = run_on_workers(self._version, self._config, work, self._note_failure)
        self._seconds["solve"] += time.perf_counter() - start
        return dict(zip(descending, zip(*by_rank, strict=True), strict=True))

    def _points(self, solved: Mapping[float, Sequence[Outcome]]) -> list[CurvePoint]:
        """How close each damping comes, ascending."""
        return [self._point(damping, solved[damping]) for damping in sorted(solved)]

    def _point(self, damping: float, outcomes: Sequence[Outcome]) -> CurvePoint:
        """How close one damping comes."""
        first, gap, loss = outcomes[0], None, None
        if first.status in USABLE:
            embeddings = self._embeddings.copy()
            rows, values = merged_update(self._version, outcomes, np.empty(0, np.int64))
            embeddings[rows] = values
            scores = self._scores(self._sample.kept, embeddings)
            gap, loss = self._gap(scores), self._logloss(scores)
        do_nothing = self._gap(self._original)
        return CurvePoint(
            damping=damping,
            gap=gap,
            relative_gap=gap / do_nothing if gap is not None and do_nothing > 0 else None,
            status=first.status,
            iterations=first.iterations,
            influence_residual=first.influence_residual,
            logloss_sample=loss,
        )

    @cached_property
    def _original(self) -> NDArray[np.float64]:
        """Scores of the sample by the model as it is."""
        return self._scores(self._version.train(), self._embeddings)

    @cached_property
    def _retrained(self) -> NDArray[np.float64]:
        """Scores of the sample by a model trained without it."""
        seed = self._version.model.options["seed"] + 1 + self._config.seed
        say(f"retraining without the sample, on {len(self._sample.kept)} interactions (seed {seed})")
        fitted = train_reference(self._version, self._sample.kept, seed)
        self._seconds["retrain"] = fitted.seconds
        return self._scores(self._sample.kept, fitted.embeddings)

    def _scores(self, graph: Interactions, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores of the sample with embeddings (N, dim) on the graph of these examples."""
        return Scorer(self._version.model.spec, graph, embeddings).scores(self._sample.sampled)

    def _gap(self, scores: NDArray[np.float64]) -> float:
        """Mean distance to the retrained model's scores of the sample, which is never empty."""
        gap = logit_gap(scores, [self._retrained])
        assert gap is not None
        return gap

    def _logloss(self, scores: NDArray[np.float64]) -> float | None:
        """Mean loss on the sample."""
        return logloss(scores, self._sample.sampled.labels)

    def _note_failure(self, failure: Failure) -> None:
        """Say that an attempt failed, and keep it for the report."""
        self._failures.append(failure.message)
        say(f"attempt {failure.attempt} failed: {failure.message}")
