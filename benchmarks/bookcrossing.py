"""The paper's protocol on Book-Crossing, through the ordinary jobs: original, unlearned and retrained side by side.

5-core over users and items; shuffled with numpy's RandomState(1024); 60/20/20 into train, validation and test, where
validation and test keep only known users and items; label = rating > 5; the last share of the shuffled training rows is
erased. In the paper's attack their labels are flipped before the original model is trained; with true labels the run is
what a deletion request is.

    python -m benchmarks.bookcrossing --data bookcrossing.parquet --labels flipped true
"""

import json
import shlex
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro

from benchmarks.jobs import REPOSITORY, run_job, submit_job
from benchmarks.tables import comparison
from cluster.local import LocalCluster

Labels = Literal["flipped", "true"]
SHUFFLE_SEED = 1024
CORE = 5
POSITIVE_ABOVE = 5


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run."""

    data: Path = REPOSITORY.parent / "shared" / "data" / "bookcrossing.parquet"
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
    """Prepare the files, run the four jobs, return their reports."""
    prepare(config.data, folder, share=config.share, flipped=labels == "flipped")
    workspace = ("--workspace", folder / "workspace")
    held_out = ("--valid", folder / "valid.parquet", "--test", folder / "test.parquet")
    logs = ("--logs", folder / "train.parquet", *held_out, "--label-column", "label")
    requests = ("--requests", folder / "requests.parquet", "--workers", config.workers)
    reports = {}
    with LocalCluster(cpus_per_node=config.workers) as cluster:
        reports["preprocess"] = run_job("preprocess", *logs, *workspace, output=folder / "preprocess")
        reports["train"] = run_job("train", *workspace, *config.train_options, output=folder / "train")
        unlearn = (*workspace, *requests, *config.unlearn_options)
        reports["unlearn"] = submit_job("unlearn", *unlearn, output=folder / "unlearn", environment=cluster.environment)
    # The cluster has ended: retraining has the machine to itself.
    retrain = ("--against", "retrain", "--references", config.references)
    reports["evaluate"] = run_job("evaluate", *workspace, *retrain, output=folder / "evaluate")
    return reports


def prepare(data: Path, folder: Path, *, share: float, flipped: bool) -> None:
    """Write train, valid, test and requests as Parquet files into the folder."""
    ratings = _k_core(pd.read_parquet(data))
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(ratings))
    ratings = ratings.iloc[order].reset_index(drop=True)
    ratings["label"] = (ratings["rating"] > POSITIVE_ABOVE).astype(np.int8)
    first, second = int(0.6 * len(ratings)), int(0.8 * len(ratings))
    train = ratings[:first].copy()
    erased = train.index[len(train) - int(share * len(train)) :]
    if flipped:
        train.loc[erased, "label"] = 1 - train.loc[erased, "label"]
    columns = ["user", "item", "label"]
    train[columns].to_parquet(folder / "train.parquet")
    for name, part in (("valid", ratings[first:second]), ("test", ratings[second:])):
        known = part["user"].isin(train["user"]) & part["item"].isin(train["item"])
        part[known][columns].to_parquet(folder / f"{name}.parquet")
    train.loc[erased, ["user", "item"]].to_parquet(folder / "requests.parquet")


def _k_core(ratings: pd.DataFrame) -> pd.DataFrame:
    """Drop users and items with fewer than CORE rows until none is left."""
    while True:
        keep = ratings.groupby("user")["user"].transform("size") >= CORE
        keep &= ratings.groupby("item")["item"].transform("size") >= CORE
        if keep.all():
            return ratings
        ratings = ratings[keep]


def _keep(config: Config, results: dict[str, Any]) -> None:
    """Write the reports with the command that made them."""
    assert config.output is not None
    config.output.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.bookcrossing", *sys.argv[1:]])
    for result in results.values():  # paths and training curves of one machine are of no use to others
        for report in result.values():
            for key in ("config", "history", "not_applied", "workspace", "quarantine_file"):
                report.pop(key, None)
    record = {"date": date.today().isoformat(), "command": command, "results": results}
    path = config.output / f"bookcrossing-{record['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nkept in {path}")


if __name__ == "__main__":
    main(tyro.cli(Config))
