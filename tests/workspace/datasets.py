"""Random datasets and models for the tests of the workspace."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from ifru_dist.interactions import Interactions
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.commits import Erasure, NewModel, commit_model
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


def random_interactions(rng: np.random.Generator, sizes: tuple[int, ...], n_rows: int) -> Interactions:
    """Tuples of rows drawn with repetition, so that some rows of the tables have none."""
    columns = [rng.integers(0, size, n_rows) + sum(sizes[:table]) for table, size in enumerate(sizes)]
    rows = np.stack(columns, axis=1).astype(np.int64)
    return Interactions(rows, rng.integers(0, 2, n_rows).astype(np.float32))


def table_names(n_tables: int) -> tuple[str, ...]:
    """Names of the tables of a random dataset."""
    return ("user", "item", "hour", "device")[:n_tables]


def random_dataset(seed: int, sizes: tuple[int, ...] = (13, 9), n_train: int = 60, n_held_out: int = 11) -> Dataset:
    """A dataset with integer user ids, text item ids and, with more than two sizes, fields with integer ids."""
    rng = np.random.default_rng(seed)
    users, items, *fields = sizes
    return Dataset(
        ids=(
            pa.array(np.arange(users) * 10 - 20, pa.int64()),
            pa.array([f"{number:04d}" for number in range(items)], pa.large_string()),
            *(pa.array(np.arange(size) + 100, pa.int64()) for size in fields),
        ),
        tables=table_names(len(sizes)),
        train=random_interactions(rng, sizes, n_train),
        valid=random_interactions(rng, sizes, n_held_out),
        test=random_interactions(rng, sizes, n_held_out + 1),
        extra={"seed": seed},
    )


@st.composite
def datasets(draw: Any) -> Dataset:
    """Datasets of all shapes: further fields, single rows, rows without examples, no held-out pairs, no examples."""
    sizes = (draw(st.integers(1, 20)), draw(st.integers(1, 20)), *draw(st.lists(st.integers(1, 4), max_size=2)))
    return random_dataset(draw(st.integers(0, 99)), sizes, draw(st.integers(0, 60)), draw(st.integers(0, 5)))


def random_embeddings(seed: int, n_rows: int, dim: int = 4) -> np.ndarray:
    """Embeddings (n_rows, dim), float32."""
    return np.random.default_rng(seed).normal(size=(n_rows, dim)).astype(np.float32)


def new_model(embeddings: np.ndarray) -> NewModel:
    """A trained model with some embeddings."""
    spec = ModelSpec(dim=embeddings.shape[1], l2=0.01)
    return NewModel(spec=spec, source="trained", options={"epochs": 3}, seed=7, parameters=Parameters(embeddings))


def erasure(examples: list[int], rows: list[int], values: np.ndarray, **changes: Any) -> Erasure:
    """A batch that erases examples and changes rows."""
    fields = {"requests": [], "suppressed": [], "summary": {}} | changes
    return Erasure(examples=np.array(examples, np.int64), rows=np.array(rows, np.int64), values=values, **fields)


def trained_workspace(workspace: Workspace, dataset: Dataset, embeddings: np.ndarray, partitions: int = 5) -> Version:
    """A workspace of two versions: data, model."""
    with workspace.lock("test"):
        write_dataset(workspace, dataset, partitions)
        commit_model(open_version(workspace), new_model(embeddings))
    return open_version(workspace)
