"""Workspaces of a few generated interactions with planted preferences, and every shipped model trained on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.synthetic import SyntheticConfig, interactions
from ifru_dist.interactions import Interactions
from ifru_dist.models.negatives import Negatives
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import create_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspaces import field_id, item_id, user_id

USERS, ITEMS, HOURS, INTERACTIONS = 60, 50, 5, 1_600
TRAINING = {"dim": 4, "l2": 0.02, "init_std": 0.1, "epochs": 6, "batch_size": 128, "learning_rate": 0.02}


def planted_workspace(root: Path, *, fields: int = 2) -> Version:
    """Data alone: 70 % of the interactions are for training, the rest for validation and test."""
    drawn = interactions(
        SyntheticConfig(output=root, interactions=INTERACTIONS, users=USERS, items=ITEMS, hours=HOURS, seed=3)
    ).sample(frac=1, random_state=0)  # nothing is written
    columns = [drawn["user"], drawn["item"] + USERS, drawn["hour"] + USERS + ITEMS][:fields]
    pairs = Interactions(np.stack(columns, axis=1), (drawn["rating"] > 5).to_numpy(np.float32))
    parts = np.split(np.arange(INTERACTIONS), [INTERACTIONS * 70 // 100, INTERACTIONS * 85 // 100])
    ids = (
        pa.array([user_id(row) for row in range(USERS)], pa.int64()),
        pa.array([item_id(row) for row in range(ITEMS)], pa.large_string()),
        pa.array([field_id(row) for row in range(HOURS)], pa.int64()),
    )
    data = dict(zip(("train", "valid", "test"), map(pairs.take, parts), strict=True))
    workspace = Workspace(root)
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        write_dataset(
            workspace, Dataset(ids=ids[:fields], tables=("user", "item", "hour")[:fields], **data), partitions=6
        )
    return open_version(workspace)


def trained(root: Path, **options: Any) -> Version:
    """A workspace with a model; ``model`` and the other options are those of jobs/train.py."""
    planted_workspace(root, fields=3 if options["model"] == "fm" else 2)
    assert train(TrainConfig(workspace=root, **TRAINING | options)) == 0
    return open_version(Workspace(root))


def requests_of(version: Version) -> list[dict[str, Any]]:
    """A whole user, the one of the first example, and the pairs of the five last examples."""
    rows = version.train().rows
    pairs = [(str(user_id(int(row[0]))), item_id(int(row[1]) - USERS), "interaction") for row in rows[-5:]]
    named = [(str(user_id(int(rows[0, 0]))), None, "user"), *pairs]
    return [dict(zip(("user", "item", "scope"), request, strict=True)) for request in named]


def erased_by_requests(version: Version) -> np.ndarray:
    """Positions of the training examples that ``requests_of`` names."""
    rows = version.train().rows
    same = (rows[:, None, :2] == rows[None, -5:, :2]).all(axis=2).any(axis=1)
    return np.flatnonzero(same | (rows[:, 0] == rows[0, 0]))


def rows_of_erased(version: Version, erased: np.ndarray) -> np.ndarray:
    """Global rows that the erased examples read when they were trained, negatives included."""
    data, spec = version.train(), version.model.spec
    if spec.loss != "bpr":
        return np.unique(data.rows[erased])
    negatives = Negatives(data.positives(), range(USERS, USERS + ITEMS), version.model.seed)
    positive = erased[data.labels[erased] > 0.5]
    return np.unique(negatives.tuples(data.rows[positive], positive, range(spec.negatives)).rows)
