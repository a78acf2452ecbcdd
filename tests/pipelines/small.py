"""A small random workspace with a model, requests for it, what lies in a folder, and unlearning without Ray."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ifru_dist.interactions import Interactions
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import random_interactions
from tests.workspaces import item_id, make_workspace, user_id

SIZES = (40, 30)
LONER = SIZES[0] - 1
"""The user of a single interaction."""


def small_interactions(n_pairs: int = 300) -> Interactions:
    """Random pairs, some of them more than once; the last user has one interaction, the last item none."""
    drawn = random_interactions(np.random.default_rng(5), (SIZES[0] - 1, SIZES[1] - 1), n_pairs)
    rows = drawn.rows + np.array([0, 1])  # items begin one row later: there is one user more
    twice = rows[:20]
    loner = np.array([[LONER, SIZES[0]]])
    labels = np.concatenate([drawn.labels, drawn.labels[:20], [1.0]]).astype(np.float32)
    return Interactions(np.concatenate([rows, twice, loner]), labels)


BUSY = int(np.bincount(small_interactions().rows[:, 0]).argmax())
"""The user with the most interactions."""


def small_workspace(
    root: Path,
    *,
    partitions: int = 7,
    embeddings: np.ndarray | None = None,
    held_out: Interactions | None = None,
    options: dict[str, Any] | None = None,
    **spec: Any,
) -> Version:
    """Two versions: data and a model with four dimensions (mf unless said otherwise)."""
    if embeddings is None:
        embeddings = np.random.default_rng(8).normal(size=(sum(SIZES), 4))
    model = ModelSpec(**{"dim": 4, "l2": 0.02} | spec)
    return make_workspace(root, SIZES, small_interactions(), embeddings, model, partitions, held_out, options)


def pair(rows: np.ndarray) -> dict[str, Any]:
    """A request for one interaction, from its global rows (2,)."""
    return {"user": str(user_id(int(rows[0]))), "item": item_id(int(rows[1]) - SIZES[0]), "scope": "interaction"}


def whole_user(row: int) -> dict[str, Any]:
    """A request for everything of a user."""
    return {"user": str(user_id(row)), "item": None, "scope": "user"}


def whole_item(row: int) -> dict[str, Any]:
    """A request for everything of an item, from its row in the table."""
    return {"user": None, "item": item_id(row), "scope": "item"}


RECEIVED = 1_700_000_000
"""When request files came, seconds since 1970."""


def request_file(path: Path, *rows: dict[str, Any]) -> Path:
    """A Parquet file of requests; columns that a row lacks are null."""
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}), path)
    os.utime(path, (RECEIVED, RECEIVED))  # the ledger keeps when a file came
    return path


def tree(root: Path) -> dict[str, bytes | None]:
    """Every folder (None) and every file with its bytes below root, hidden ones included."""
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Workers set the number of torch's threads, for the whole process: give it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def erase(root: Path, *rows: dict[str, Any]) -> Version:
    """Unlearn a batch in this process; returns the version after it."""
    unlearn(UnlearnConfig(workspace=root, requests=request_file(root.with_suffix(".parquet"), *rows), workers=0))
    return open_version(Workspace(root))
