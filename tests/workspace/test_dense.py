"""A model's own parameters in a workspace."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from ifru_dist.models.parameters import Parameters
from ifru_dist.workspace import manifest as manifest_module
from ifru_dist.workspace.commits import commit_erasure, commit_model
from ifru_dist.workspace.dense import read_dense, write_dense
from ifru_dist.workspace.files import check_content
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, new_model, random_dataset, random_embeddings, trained_workspace

EMBEDDINGS = random_embeddings(1, 22)
DENSE = {
    "weight0": np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32),
    "bias": np.array(0.5, np.float32),
    "output": np.arange(3, dtype=np.float32),
}


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    same_kind = all(first[name].shape == second[name].shape and first[name].dtype == np.float32 for name in first)
    return (
        list(first) == list(second) and same_kind and all(np.array_equal(first[name], second[name]) for name in first)
    )


def with_dense(root: Workspace) -> Version:
    """A third version, whose model has parameters of its own."""
    version = trained_workspace(root, random_dataset(1), EMBEDDINGS)
    model = dataclasses.replace(new_model(EMBEDDINGS), parameters=Parameters(EMBEDDINGS, DENSE))
    with root.lock("test"):
        commit_model(version, model)
    return open_version(root, check_content=True)


def test_parameters_of_any_shape_come_back(tmp_path: Path) -> None:
    entry = write_dense(tmp_path, DENSE)
    assert entry is not None
    check_content(tmp_path, entry)
    assert equal(read_dense(tmp_path, entry), DENSE)


def test_a_model_without_its_own_parameters_has_no_file(tmp_path: Path) -> None:
    assert write_dense(tmp_path, {}) is None
    assert read_dense(tmp_path, None) == {}
    version = trained_workspace(Workspace(tmp_path / "ws"), random_dataset(1), EMBEDDINGS)
    assert version.model.dense is None
    assert version.dense() == {}


def test_a_version_holds_them(tmp_path: Path) -> None:
    version = with_dense(Workspace(tmp_path / "ws"))
    assert version.model.dense in version.manifest.files()
    parameters = version.parameters()
    assert np.array_equal(parameters.embeddings, EMBEDDINGS)
    assert equal(dict(parameters.dense), DENSE)


def test_an_erasure_changes_them_or_leaves_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    before = with_dense(workspace)
    moved = {name: values + 1 for name, values in DENSE.items()}
    with workspace.lock("test"):
        commit_erasure(before, erasure([3], [2], EMBEDDINGS[[2]]))
        commit_erasure(open_version(workspace), erasure([4], [2], EMBEDDINGS[[2]], dense=moved))
    left, changed = open_version(workspace, 4), open_version(workspace, 5, check_content=True)
    assert left.model.dense == before.model.dense
    assert equal(left.dense(), DENSE)
    assert equal(changed.dense(), moved)
    assert equal(changed.original().dense(), DENSE)


def test_manifests_of_earlier_releases_have_none(tmp_path: Path) -> None:
    version = trained_workspace(Workspace(tmp_path / "ws"), random_dataset(1), EMBEDDINGS)
    body = json.loads(manifest_module.encode(version.manifest).decode().split("\n", 1)[1])
    del body["model"]["dense"]
    for name in ("hidden", "fields", "negatives"):
        del body["model"]["spec"][name]
    text = json.dumps(body)
    head = json.dumps({"sha256": manifest_module._digest(text)})
    assert manifest_module.decode(f"{head}\n{text}\n".encode(), "old") == version.manifest
