"""The batch of the tests of unlearning, what it erases, and how it is run, refused and looked at afterwards."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import IfruError
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.influence import reference
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    pair,
    request_file,
    small_interactions,
    tree,
    whole_item,
    whole_user,
)

MODELS = pytest.mark.parametrize("model", ["mf", "lightgcn"])
ROWS = small_interactions().rows
BATCH = [whole_user(LONER), whole_user(BUSY), whole_item(int(ROWS[7, 1]) - SIZES[0]), pair(ROWS[0]), pair(ROWS[50])]
ERASED = np.flatnonzero(
    np.isin(ROWS[:, 0], [LONER, BUSY])
    | np.isin(ROWS[:, 1], ROWS[7, 1])
    | (ROWS[:, None] == ROWS[[0, 50]]).all(axis=2).any(axis=1)
)
"""The examples that BATCH names."""


def config(root: Path, requests: Path, **changes: Any) -> UnlearnConfig:
    """In this process unless ``workers`` says otherwise, and with a residual budget that random models keep within."""
    return UnlearnConfig(**{"workspace": root, "requests": requests, "workers": 0, "residual_budget": 100} | changes)


def run(root: Path, *rows: dict[str, Any], **changes: Any) -> Version:
    """Unlearn a batch; returns the version after it."""
    assert unlearn(config(root, request_file(root.with_suffix(".parquet"), *rows), **changes)) == 0
    return open_version(Workspace(root), check_content=True)


def dense_case(before: Version, erased: np.ndarray) -> reference.Case:
    """A batch as the dense reference sees it: the version before it, and the ids of the examples that go."""
    data, spec = before.train(), before.model.spec
    gone = torch.zeros(len(data), dtype=torch.bool)
    gone[torch.from_numpy(erased)] = True
    return reference.Case(
        sizes=SIZES,
        pairs=torch.from_numpy(data.rows),
        label=torch.from_numpy(data.labels).double(),
        erased=gone,
        embeddings=torch.from_numpy(before.embeddings()).double(),
        layer_weights=(1.0,) if spec.name == "mf" else (0.5, 0.5),
        l2=spec.l2,
        l2_row=spec.l2_row,
        partitions=before.layout.partitions,
    )


def report_of(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / "reports" / name / "report.json").read_text())


def copy(root: Path, target: Path) -> Path:
    """A workspace and its key."""
    shutil.copytree(root, target)
    shutil.copy(root.with_name(root.name + ".key"), target.with_name(target.name + ".key"))
    return target


def timeless(manifest: Manifest) -> Manifest:
    """What a manifest says apart from when it was made."""
    return dataclasses.replace(manifest, created="")


def refuse(root: Path, batch: list[dict[str, Any]], error: type[IfruError], *expected: str, **changes: Any) -> None:
    """Unlearning a batch fails with a message of one line, and leaves every byte of the workspace as it was."""
    path = request_file(root.with_suffix(".parquet"), *batch)
    refuse_file(root, path, error, *expected, **changes)


def refuse_file(root: Path, path: Path, error: type[IfruError], *expected: str, **changes: Any) -> None:
    before = tree(root.parent)
    with pytest.raises(error) as caught:
        unlearn(config(root, path, **changes))
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root.parent) == before
