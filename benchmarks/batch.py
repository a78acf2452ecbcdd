"""The paper's batch at once: 2 % of Book-Crossing's training interactions, erased by one worker that stands.

The worker holds the model and has erased before, so that nothing is loaded or compiled any more. The clock runs from
requests in memory to the committed version, and on until the worker holds that version; every run begins with the
same model. Beside it a retraining on what the batch leaves, until early stopping returns.

    python -m benchmarks.batch --threads 2 --output benchmarks/results
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field

from benchmarks.protocol import BOOKCROSSING, DATA_FOLDER, require_data
from benchmarks.records import keep
from benchmarks.trial import Setting, Trial
from ifru_dist.config import validated
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.benchmark_scratch import scratch_copy
from ifru_dist.pipelines.benchmark_training import retraining_report
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.erasing import Eraser
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.requests import Request, read_requests
from ifru_dist.pipelines.unlearn import UnlearnConfig
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

TIMES_FASTER, SECONDS = 250.0, 0.08
"""What was asked for: over a retraining, and at most."""
_BUDGET = 100.0  # more than any batch leaves: what it leaves is reported


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the batch."""

    threads: Annotated[int, Field(ge=1)] = 2
    share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Of the training interactions."""
    runs: Annotated[int, Field(ge=1)] = 7
    data_folder: Path = DATA_FOLDER
    """Folder of bookcrossing.parquet."""
    output: Path | None = None
    """Where a dated file of the figures is kept."""


def main(config: Config) -> None:
    """Train a model, erase the batch from copies of it, retrain once, print, and keep the figures."""
    config = validated(config)
    require_data([config.data_folder / BOOKCROSSING.file])
    with TemporaryDirectory(prefix="batch-") as name:
        setting = Setting(data=config.data_folder, folder=Path(name), seed=1, references=1)
        trial = Trial(setting, BOOKCROSSING, share=config.share, flipped=False)
        trial.train()
        trial.calibrate()
        version, requests = open_version(Workspace(trial.workspace)), read_requests(trial.requests)
        runs = [erased(version, requests, config.threads) for _ in range(config.runs)]
        retraining = retraining_report(version, runs[-1][1])
    figures = _figures(config, [figures for figures, _ in runs], retraining)
    _print(figures)
    if config.output is not None:
        keep(config.output, "batch", figures)


def erased(version: Version, requests: list[Request], threads: int) -> tuple[dict[str, Any], Interactions]:
    """Seconds of one run and what it erased, and what is left to train on."""
    flags = UnlearnConfig(
        workspace=version.workspace.root,
        requests=version.workspace.root,
        key_file=version.workspace.default_key_file,
        workers=0,
        threads_per_worker=threads,
        residual_budget=_BUDGET,
    )
    place = version.workspace.root.parent
    with scratch_copy(version, place) as copy, copy.workspace.lock("benchmark"), Workers(flags) as workers:
        eraser = Eraser(copy, flags, workers)
        eraser.erase(requests[:1])
        started = time.perf_counter()
        result = eraser.erase(requests[1:])
        ready_s = time.perf_counter() - started
        kept = eraser.version.trained()
    assert result.outcomes is not None
    phases = {name: result.seconds[name] for name in ("route", "gang", "commit")} | dict(result.outcomes[0].seconds)
    figures = {
        "interactions": len(result.routed.examples),
        "influence_residual": result.outcomes[0].influence_residual,
        "products": sum(sum(round_.iterations) for round_ in result.outcomes[0].rounds),
        "ready_s": ready_s,
        "phases_s": phases,
    }
    return figures, kept


def _figures(config: Config, runs: list[dict[str, Any]], retraining: dict[str, Any]) -> dict[str, Any]:
    """Medians, and what they are against a retraining."""
    middle = statistics.median(run["ready_s"] for run in runs)
    return {
        "threads": config.threads,
        "interactions": runs[0]["interactions"],
        "influence_residual": runs[0]["influence_residual"],
        "products": runs[0]["products"],
        "ready_s": {"median": middle, "runs": [run["ready_s"] for run in runs]},
        "asked_s": SECONDS,
        "phases_s": {name: statistics.median(run["phases_s"][name] for run in runs) for name in runs[0]["phases_s"]},
        "retraining": retraining,
        "times_faster": retraining["seconds"] / middle,
        "times_faster_asked": TIMES_FASTER,
    }


def _print(figures: dict[str, Any]) -> None:
    """The figures in words."""
    phases = ", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in figures["phases_s"].items())
    print(
        f"{figures['interactions']} interactions in {1e3 * figures['ready_s']['median']:.0f} ms (asked "
        f"{1e3 * SECONDS:.0f}), {figures['times_faster']:.0f} times faster than a retraining of "
        f"{figures['retraining']['seconds']:.1f} s (asked {TIMES_FASTER:.0f})\nmilliseconds: {phases}"
    )


if __name__ == "__main__":
    run_command(Config, main)
