"""The paper's split of ratings, as files that jobs/preprocess.py takes ready-made.

k-core over users and items where a protocol has one; shuffled with numpy's RandomState(1024); 60/20/20 into train,
validation and test, where validation and test keep only known users and items; labels are 1 above a rating; the last
share of the shuffled training rows is erased. In the paper's attack their labels are flipped before the original model
is trained; with true labels the run is what a deletion request is.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.jobs import REPOSITORY

DATA_FOLDER = REPOSITORY.parent / "shared" / "data"
SHUFFLE_SEED = 1024


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A set of ratings and what becomes of them."""

    title: str
    """Its name in tables."""
    file: str
    """Parquet file with the columns user, item, rating."""
    positive_above: float
    """The label is 1 where the rating is above this."""
    core: int = 1
    """k of the k-core; 1 keeps all."""


BOOKCROSSING = Protocol(title="Book-Crossing", file="bookcrossing.parquet", positive_above=5, core=5)
MOVIELENS_1M = Protocol(title="MovieLens-1M", file="ml-1m.parquet", positive_above=3)
MOVIELENS_100K = Protocol(title="MovieLens-100K", file="ml-100k.parquet", positive_above=3)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Columns user, item, label; of the requests: user, item."""

    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    requests: pd.DataFrame
    """The last training rows, in their order."""


def prepare(protocol: Protocol, data: Path, folder: Path, *, share: float, flipped: bool) -> None:
    """Write train, valid, test and requests of a file of ratings as Parquet files into the folder."""
    parts = split(protocol, pd.read_parquet(data), share=share, flipped=flipped)
    for field in fields(parts):
        getattr(parts, field.name).to_parquet(folder / f"{field.name}.parquet")


def split(protocol: Protocol, ratings: pd.DataFrame, *, share: float, flipped: bool) -> Split:
    """The parts of some ratings (columns user, item, rating); ``share`` of the training rows is to be erased."""
    ratings = _k_core(ratings, protocol.core)
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(ratings))
    ratings = ratings.iloc[order].reset_index(drop=True)
    ratings["label"] = (ratings["rating"] > protocol.positive_above).astype(np.int8)
    ratings = ratings[["user", "item", "label"]]
    first, second = int(0.6 * len(ratings)), int(0.8 * len(ratings))
    train = ratings[:first].copy()
    erased = train.index[len(train) - int(share * len(train)) :]
    if flipped:
        train.loc[erased, "label"] = 1 - train.loc[erased, "label"]
    valid, test = (_known(part, train) for part in (ratings[first:second], ratings[second:]))
    return Split(train=train, valid=valid, test=test, requests=train.loc[erased, ["user", "item"]])


def require_data(files: list[Path]) -> None:
    """See that data files are there before anything is run.

    Raises:
        SystemExit: naming those that are absent.
    """
    if absent := [str(path) for path in files if not path.is_file()]:
        raise SystemExit(f"{', '.join(absent)}: absent: name the place of the ratings with --data-folder")


def _known(part: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """The rows whose user and item have training rows."""
    return part[part["user"].isin(train["user"]) & part["item"].isin(train["item"])]


def _k_core(ratings: pd.DataFrame, core: int) -> pd.DataFrame:
    """Drop users and items with fewer than ``core`` rows until none is left."""
    while True:
        keep = ratings.groupby("user")["user"].transform("size") >= core
        keep &= ratings.groupby("item")["item"].transform("size") >= core
        if keep.all():
            return ratings
        ratings = ratings[keep]
