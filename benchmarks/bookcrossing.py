"""The paper's protocol on Book-Crossing, through the ordinary jobs: original, unlearned and retrained side by side.

benchmarks/protocol.py says what the protocol is.

    python -m benchmarks.bookcrossing --data bookcrossing.parquet --labels flipped true
"""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import tyro

from benchmarks.jobs import run_job, submit_job
from benchmarks.protocol import BOOKCROSSING, DATA_FOLDER, prepare
from benchmarks.records import command_of, kept
from benchmarks.tables import comparison
from cluster.local import LocalCluster

Labels = Literal["flipped", "true"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run."""

    data: Path = DATA_FOLDER / BOOKCROSSING.file
    """Book-Crossing ratings: columns user, item, rating."""
    labels: tuple[Labels, ...] = ("flipped", "true")
    """Labels of the erased interactions when the original model is trained."""
    share: float = 0.02
    """Share of the training rows that is erased."""
    workers: int = 2
    """Workers that unlearn."""
    references: int = 3
    """Retrained models."""
    train_options: Annotated[tuple[str, ...], tyro.conf.arg(name="train")] = ()
    """Further options of jobs/train.py, quoted: --train "--dim=48"."""
    unlearn_options: Annotated[tuple[str, ...], tyro.conf.arg(name="unlearn")] = ()
    """Further options of jobs/unlearn.py, quoted."""
    output: Path | None = None
    """Folder for a dated result file; none is written without it."""


def main(config: Config) -> None:
    """Run the protocol for each kind of labels and print the tables."""
    if not config.data.is_file():
        raise SystemExit(f"{config.data} is absent: give the place of the Book-Crossing ratings with --data")
    results: dict[str, Any] = {}
    for labels in config.labels:
        with TemporaryDirectory(prefix="bookcrossing-") as folder:
            results[labels] = run_protocol(config, labels, Path(folder))
    for kind, result in results.items():
        print(f"\nBook-Crossing, {config.share:.0%} erased, {kind} labels\n\n{comparison(result)}")
    if config.output is not None:
        _keep(config, results)


def run_protocol(config: Config, labels: Labels, folder: Path) -> dict[str, Any]:
    """Prepare the files, run the five jobs, return their reports."""
    prepare(BOOKCROSSING, config.data, folder, share=config.share, flipped=labels == "flipped")
    workspace = ("--workspace", folder / "workspace")
    held_out = ("--valid", folder / "valid.parquet", "--test", folder / "test.parquet")
    logs = ("--logs", folder / "train.parquet", *held_out, "--label-column", "label")
    requests = ("--requests", folder / "requests.parquet", "--workers", config.workers)
    reports = {}
    with LocalCluster(cpus_per_node=config.workers) as cluster:
        reports["preprocess"] = run_job("preprocess", *logs, *workspace, output=folder / "preprocess")
        reports["train"] = run_job("train", *workspace, *config.train_options, output=folder / "train")
        calibrate = (*workspace, "--exclude", folder / "requests.parquet", "--workers", config.workers)
        reports["calibrate"] = submit_job(
            "calibrate", *calibrate, output=folder / "calibrate", environment=cluster.environment
        )
        unlearn = (*workspace, *requests, *config.unlearn_options)
        reports["unlearn"] = submit_job("unlearn", *unlearn, output=folder / "unlearn", environment=cluster.environment)
    # The cluster has ended: retraining has the machine to itself.
    retrain = ("--against", "retrain", "--references", config.references)
    reports["evaluate"] = run_job("evaluate", *workspace, *retrain, output=folder / "evaluate")
    return reports


def _keep(config: Config, results: dict[str, Any]) -> None:
    """Write the reports with the command that made them."""
    assert config.output is not None
    config.output.mkdir(parents=True, exist_ok=True)
    shown = {labels: {job: kept(report) for job, report in result.items()} for labels, result in results.items()}
    record = {"date": date.today().isoformat(), "command": command_of("benchmarks.bookcrossing"), "results": shown}
    path = config.output / f"bookcrossing-{record['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nkept in {path}")


if __name__ == "__main__":
    main(tyro.cli(Config))
