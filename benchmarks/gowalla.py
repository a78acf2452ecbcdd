"""LightGCN with pairwise ranking (BPR) on Gowalla's check-ins, as published recommenders are compared: recall@20.

The file holds positives only, split into training and test pairs by its column split (0 and 1), as LightGCN's authors
did. There is no validation part: the number of epochs is fixed. It was chosen, with the other options, by the recall of
a fifth of the training pairs that were held out for that.

    python -m benchmarks.gowalla --output benchmarks/results
"""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from benchmarks.jobs import run_job
from benchmarks.protocol import DATA_FOLDER
from benchmarks.records import command_of, kept

RECALL = 0.15
"""What the test recall@20 is to reach."""
MINUTES = 40
"""In which training is to reach it, on two cores."""
TRAINING = (
    *("--model", "lightgcn", "--loss", "bpr", "--layers", "3", "--dim", "64", "--l2", "1e-4", "--init-std", "0.1"),
    *("--batch-size", "16384", "--learning-rate", "0.03", "--epochs", "40"),
)
"""Options of jobs/train.py."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run."""

    data: Path = DATA_FOLDER / "gowalla.parquet"
    """Check-ins: columns user, item, split."""
    train_options: Annotated[tuple[str, ...], tyro.conf.arg(name="train")] = ()
    """Further options of jobs/train.py, quoted: --train "--epochs=3"."""
    output: Path | None = None
    """Folder for a dated result file; none is written without it."""


def main(config: Config) -> None:
    """Prepare, train, and hold the figures against what they are to reach."""
    if not config.data.is_file():
        raise SystemExit(f"{config.data} is absent: give the place of Gowalla's check-ins with --data")
    with TemporaryDirectory(prefix="gowalla-") as folder:
        reports = run_training(config, Path(folder))
    recall, minutes = reports["train"]["test_recall_at_20"], reports["train"]["seconds"] / 60
    reached = "reached" if recall >= RECALL and minutes <= MINUTES else "NOT reached"
    print(f"\nGowalla: test recall@20 {recall:.4f}, NDCG@20 {reports['train']['test_ndcg_at_20']:.4f}")
    print(f"trained in {minutes:.1f} minutes; {RECALL} within {MINUTES} minutes: {reached}")
    if config.output is not None:
        _keep(config.output, reports)


def run_training(config: Config, folder: Path) -> dict[str, Any]:
    """Prepare the files, make the workspace and train; returns the reports of both jobs."""
    prepare(config.data, folder)
    workspace = ("--workspace", folder / "workspace")
    logs = ("--logs", folder / "train.parquet", "--test", folder / "test.parquet", "--label-column", "label")
    return {
        "preprocess": run_job("preprocess", *logs, *workspace, output=folder / "preprocess"),
        "train": run_job("train", *workspace, *TRAINING, *config.train_options, output=folder / "train"),
    }


def prepare(data: Path, folder: Path) -> None:
    """Write train and test as Parquet files (user, item, label) into the folder."""
    checkins = pd.read_parquet(data)
    checkins["label"] = np.int8(1)
    for split, name in enumerate(("train", "test")):
        part = checkins.loc[checkins["split"] == split, ["user", "item", "label"]]
        part.to_parquet(folder / f"{name}.parquet", index=False)


def _keep(output: Path, reports: dict[str, Any]) -> None:
    """Write the reports with the command that made them."""
    output.mkdir(parents=True, exist_ok=True)
    shown = {job: kept(report) for job, report in reports.items()}
    record = {"date": date.today().isoformat(), "command": command_of("benchmarks.gowalla"), "results": shown}
    path = output / f"gowalla-{record['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nkept in {path}")


if __name__ == "__main__":
    main(tyro.cli(Config))
