"""A workspace of generated interactions with planted preferences, and a model trained on them with early stopping."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.synthetic import SyntheticConfig, interactions
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import create_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspaces import item_id, user_id

USERS, ITEMS, INTERACTIONS = 150, 120, 12_000
TRAINING = {"dim": 32, "init_std": 1e-3, "l2": 0.02, "batch_size": 256, "learning_rate": 0.003, "patience": 10}


def generated_workspace(root: Path) -> Version:
    """70 % of the interactions are for training, the rest for validation and test."""
    drawn = interactions(
        SyntheticConfig(output=root, interactions=INTERACTIONS, users=USERS, items=ITEMS, seed=3)  # nothing is written
    ).sample(frac=1, random_state=0)
    pairs = Interactions(
        np.stack([drawn["user"], drawn["item"] + USERS], axis=1), (drawn["rating"] > 5).to_numpy(np.float32)
    )
    parts = np.split(np.arange(INTERACTIONS), [INTERACTIONS * 70 // 100, INTERACTIONS * 85 // 100])
    ids = (
        pa.array([user_id(row) for row in range(USERS)], pa.int64()),
        pa.array([item_id(row) for row in range(ITEMS)], pa.large_string()),
    )
    data = dict(zip(("train", "valid", "test"), map(pairs.take, parts), strict=True))
    workspace = Workspace(root)
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        write_dataset(workspace, Dataset(ids=ids, **data), partitions=8)
    train(TrainConfig(workspace=root, **TRAINING))
    return open_version(workspace)
