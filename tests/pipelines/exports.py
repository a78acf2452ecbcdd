"""Exports of the small workspace, by table and id; and a model that is made anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.export import ExportConfig, export
from ifru_dist.training.tensor_files import Arrays, read_arrays
from ifru_dist.workspace.commits import NewModel, commit_model
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import SIZES, small_interactions

MODELS = pytest.mark.parametrize("model", ["mf", "lightgcn"])
SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
USERS, ITEMS = SIZES
ROWS = small_interactions().rows
ITEM = int(ROWS[7, 1]) - USERS


def exported(root: Path, **changes: Any) -> Arrays:
    """Export to a .npz unless said otherwise; returns all arrays of the file but the manifest."""
    path = changes.pop("to", root.with_name("export.npz"))
    assert export(ExportConfig(workspace=root, to=path, overwrite=True, **changes)) == 0
    return read_arrays(path, lambda name: name != "manifest")


def named_rows(version: Version) -> dict[tuple[str, Any], int]:
    """(Table, id) -> global row, of the rows that have an id."""
    pairs = {}
    for table, (name, offset) in enumerate(zip(("user", "item"), (0, SIZES[0]), strict=True)):
        ids = version.ids(table).to_pylist()
        pairs |= {(name, external): row + offset for row, external in enumerate(ids) if external is not None}
    return pairs


def named_values(arrays: Arrays, outputs: bool = False) -> dict[tuple[str, Any], bytes]:
    """(Table, id) -> the bytes of a row, of an export."""
    ending = "_output" if outputs else ""
    return {
        (table, external): row.tobytes()
        for table in ("user", "item")
        for external, row in zip(arrays[f"{table}_ids"].tolist(), arrays[table + ending], strict=True)
    }


def values_of(version: Version, values: np.ndarray) -> dict[tuple[str, Any], bytes]:
    """The same of a table of all rows."""
    return {key: values[row].tobytes() for key, row in named_rows(version).items()}


def retrained(version: Version, embeddings: np.ndarray, dense: dict[str, np.ndarray] | None = None) -> Version:
    """A new model on the version's data."""
    spec = ModelSpec(name="neumf" if dense else "mf", dim=embeddings.shape[1] // (2 if dense else 1), hidden=(3,))
    parameters = Parameters(embeddings, dense or {})
    with version.workspace.lock("test"):
        commit_model(version, NewModel(spec=spec, source="trained", options={}, seed=1, parameters=parameters))
    return open_version(version.workspace)
