"""A stream of small batches beside the same erasure as one batch: nothing may pile up."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.criteria import Criterion, Figure
from benchmarks.evaluated import COLUMNS
from benchmarks.jobs import read_report
from benchmarks.parts import Case, Part
from benchmarks.protocol import BOOKCROSSING
from benchmarks.trial import Setting, Trial
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn

SHARE = 0.025
BATCHES = 50
_BUDGET = 100.0  # more than any stream leaves: what it leaves is reported


def measure(setting: Setting, flipped: bool) -> dict[str, Any]:
    """Erase the same share at once and batch by batch, from one model; evaluate both with the same references."""
    trial = Trial(setting, BOOKCROSSING, share=SHARE, flipped=flipped)
    reports = {"train": trial.train(), "calibrate": trial.calibrate()}
    stream = trial.copy("stream")
    reports["one"] = trial.unlearn("--residual-budget", _BUDGET)
    reports["stream"] = erase_in_batches(stream, trial.requests, BATCHES)
    reports["evaluate"] = trial.evaluate()
    reports["evaluate_stream"] = trial.evaluate(workspace=stream)
    return reports


def erase_in_batches(workspace: Path, requests: Path, batches: int) -> dict[str, Any]:
    """Erase a file of requests in batches of equal size, in its order; what they add up to."""
    frame, reports = pd.read_parquet(requests), []
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), batches)):
        part = requests.with_name(f"batch-{number:03d}.parquet")
        frame.iloc[rows].to_parquet(part)
        output = part.with_suffix("")
        config = UnlearnConfig(workspace=workspace, requests=part, workers=0, residual_budget=_BUDGET, output=output)
        print(f"\nbatch {number + 1} of {batches}: {len(rows)} requests", flush=True)
        unlearn(config)
        reports.append(read_report(output))
    return {
        "batches": len(reports),
        "interactions_erased": sum(report["interactions_erased"] for report in reports),
        "seconds": sum(report["seconds"]["total"] for report in reports),
        "newton_steps": sum(report["solver"]["newton_steps"] for report in reports if report["solver"]),
        "influence_residual": [report["influence_residual"] for report in reports],
        "residual_budget": reports[-1]["residual_budget"],
    }


def _gap(evaluation: str, method: str) -> Figure:
    """Logit gap on the erased pairs."""
    return lambda run: run[evaluation]["methods"][method]["logit_gap_erased"]


def _distance(run: Any, gap: float) -> float:
    """How far a gap lies from that of the single batch, as a share of the latter."""
    return abs(gap / run["evaluate"]["methods"]["unlearned"]["logit_gap_erased"] - 1)


def _same_references(run: Any) -> float:
    """1 where both evaluations trained the same references, bit for bit."""
    first, second = (run[name]["methods"]["retrained"] for name in ("evaluate", "evaluate_stream"))
    return float(first == second)


def _models() -> dict[str, dict[str, Figure]]:
    """The figures of all models, those of the stream by its own evaluation."""
    at = {"original": ("evaluate", "original"), "one batch": ("evaluate", "unlearned")}
    at |= {f"{BATCHES} batches": ("evaluate_stream", "unlearned"), "retrained": ("evaluate", "retrained")}
    return {name: {title: _figure(*place, key) for title, key in COLUMNS.items()} for name, place in at.items()}


def _figure(evaluation: str, method: str, key: str) -> Figure:
    """A figure of one model in one evaluation."""
    return lambda run: run[evaluation]["methods"][method][key]


def _figures() -> dict[str, dict[str, Figure]]:
    """Those of the models, and what erasing cost and left."""
    rows = _models()
    for name, job in (("one batch", "one"), (f"{BATCHES} batches", "stream")):
        rows[name] |= _costs(job)
    rows["one batch"]["damping"] = lambda run: run["one"]["solver"]["damping"]
    rows["one batch"]["Newton steps"] = lambda run: run["one"]["solver"]["newton_steps"]
    rows[f"{BATCHES} batches"]["Newton steps"] = lambda run: run["stream"]["newton_steps"]
    rows["retrained"]["same references"] = _same_references
    return rows


def _costs(job: str) -> dict[str, Figure]:
    """Seconds, and the interactions whose influence stays, as the model's record adds them up."""
    return {
        "seconds": lambda run: run[job]["seconds"] if job == "stream" else run[job]["seconds"]["total"],
        "unsolved interactions": lambda run: run[job]["residual_budget"]["spent_after"],
        "share of training": lambda run: run[job]["residual_budget"]["share_after"],
    }


def _case(name: str, flipped: bool) -> Case:
    """One kind of labels."""
    return Case(
        name=name,
        protocol=BOOKCROSSING,
        measure=partial(measure, flipped=flipped),
        criteria=(
            Criterion(
                name=f"|gap on erased pairs of {BATCHES} batches / that of one batch - 1|",
                figure=lambda run: _distance(run, run["evaluate_stream"]["methods"]["unlearned"]["logit_gap_erased"]),
                nothing=lambda run: _distance(run, run["evaluate"]["methods"]["original"]["logit_gap_erased"]),
                bound=0.15,
            ),
        ),
        figures=_figures(),
    )


STREAM_PART = Part(
    title=f"Book-Crossing, 2.5 % erased: one batch, and {BATCHES} batches",
    cases=(_case("true labels", False), _case("flipped labels", True)),
)
