"""Workspaces for tests: from a case of the dense reference, or from random interactions."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ifru_dist.interactions import Interactions
from ifru_dist.models.base import dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.commits import NewModel, commit_model
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import create_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.influence.reference import Case


def user_id(row: int) -> int:
    """External id of a user's row: integers, not the row itself."""
    return 100 + 7 * row


def item_id(row: int) -> str:
    """External id of an item's row within its table: text that looks like a number with leading zeros."""
    return f"0{row:04d}"


def field_id(row: int) -> int:
    """External id of the row of a further field within its table."""
    return 1000 + row


def make_workspace(
    root: Path,
    sizes: tuple[int, ...],
    train: Interactions,
    embeddings: np.ndarray,
    spec: ModelSpec,
    partitions: int,
    held_out: Interactions | None = None,
    options: dict[str, Any] | None = None,
) -> Version:
    """A workspace with data and a model; its key lies beside it. Held-out pairs are training pairs unless given.

    Tables beyond the first two are further fields, named field2, field3 and so on.
    ``options`` say how the model was trained, and so how references of it are: two epochs unless given.
    """
    workspace = Workspace(root)
    users, items, *fields = sizes
    tables = ("user", "item", *(f"field{table}" for table in range(2, len(sizes))))
    ids = (
        pa.array([user_id(row) for row in range(users)], pa.int64()),
        pa.array([item_id(row) for row in range(items)], pa.large_string()),
        *(pa.array([field_id(row) for row in range(size)], pa.int64()) for size in fields),
    )
    held_out = train.take(np.arange(min(len(train), 8))) if held_out is None else held_out
    dense = {name: values.numpy() for name, values in dense_parameters(build_model(spec), seed=1).items()}
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        dataset = Dataset(ids=ids, tables=tables, train=train, valid=held_out, test=held_out)
        write_dataset(workspace, dataset, partitions)
        model = NewModel(
            spec=spec,
            source="trained",
            options=options or {"epochs": 2, "patience": 2, "batch_size": 64, "learning_rate": 1e-3, "seed": 1},
            seed=1,
            parameters=Parameters(embeddings.astype(np.float32), dense),
        )
        commit_model(open_version(workspace), model)
    return open_version(workspace)


def workspace_of_case(root: Path, case: Case) -> Version:
    """A workspace that holds a case; its embeddings must be exact in float32."""
    train = Interactions(case.pairs.numpy(), case.label.numpy().astype(np.float32))
    layers = len(case.layer_weights) - 1
    spec = ModelSpec(
        name="lightgcn" if layers else "mf", dim=case.embeddings.shape[1], layers=max(1, layers), l2=case.l2
    )
    return make_workspace(root, case.sizes, train, case.embeddings.numpy(), spec, case.partitions)
