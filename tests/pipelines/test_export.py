"""What is exported of a version, that it comes back, and that a refused export leaves nothing behind."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ifru_dist.errors import ConfigError, IfruError, WorkspaceError
from ifru_dist.interactions import Interactions
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.export import ExportConfig, export
from ifru_dist.training.imported import load_embeddings
from ifru_dist.training.tensor_files import read_arrays
from ifru_dist.workspace.store import Workspace
from tests.pipelines.exports import (
    ITEM,
    ITEMS,
    MODELS,
    ROWS,
    SUFFIXES,
    USERS,
    exported,
    named_values,
    retrained,
    values_of,
)
from tests.pipelines.small import (
    BUSY,
    SIZES,
    erase,
    pair,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.workspaces import item_id, make_workspace, user_id


def refuse(root: Path, error: type[IfruError], *expected: str, **changes: Any) -> None:
    """The job fails with a message of one line, and leaves every file as it was."""
    before = tree(root.parent)
    with pytest.raises(error) as caught:
        export(ExportConfig(**{"workspace": root, "to": root.with_name("export.npz")} | changes))
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root.parent) == before


# ---------------------------------------------------------------------------------------------------------------- whole


@SUFFIXES
@MODELS
def test_an_export_is_imported_again_bit_for_bit(tmp_path: Path, suffix: str, model: str) -> None:
    embeddings = np.random.default_rng(3).normal(size=(sum(SIZES), 4)).astype(np.float32)
    embeddings[0] = [-0.0, 1e-45, 9.9e14, 1 / 3]
    version = small_workspace(tmp_path / "ws", embeddings=embeddings, name=model)
    files = tree(tmp_path / "ws")
    arrays = exported(tmp_path / "ws", to=tmp_path / f"model{suffix}")
    assert set(arrays) == {"user", "user_ids", "item", "item_ids"}
    tables = {"user": version.ids(0).to_numpy()[::-1], "item": version.ids(1).to_numpy(zero_copy_only=False)}
    imported = load_embeddings(tmp_path / f"model{suffix}", tables)
    assert imported.ignored == {"user": 0, "item": 0}
    order = [*range(USERS)[::-1], *range(USERS, sum(SIZES))]
    assert imported.embeddings.tobytes() == embeddings[order].tobytes()
    assert tree(tmp_path / "ws") == files


def test_integer_ids_stay_integers_and_text_stays_text(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    for suffix in (".npz", ".safetensors", ".pt"):
        arrays = exported(tmp_path / "ws", to=tmp_path / f"model{suffix}")
        assert arrays["user_ids"].dtype == np.int64
        assert arrays["user_ids"].tolist() == [user_id(row) for row in range(USERS)]
        assert arrays["item_ids"].tolist() == [item_id(row) for row in range(ITEMS)]


@SUFFIXES
def test_the_manifest_says_what_the_file_is(tmp_path: Path, suffix: str) -> None:
    root, path = tmp_path / "ws", tmp_path / f"model{suffix}"
    small_workspace(root, name="lightgcn")
    after = erase(root, pair(ROWS[0]))
    for outputs, since in ((False, None), (True, 2)):
        exported(root, to=path, outputs=outputs, since=since)
        if suffix == ".npz":
            text = str(np.load(path)["manifest"])
        elif suffix == ".pt":
            text = torch.load(path, weights_only=True)["manifest"]
        else:
            with safe_open(path, framework="np") as file:
                text = file.metadata()["manifest"]
        manifest = json.loads(text)
        assert ModelSpec(**manifest.pop("model")) == after.model.spec
        assert manifest == {
            "format": 1,
            "version": 3,
            "version_sha256": after.workspace.digest(3),
            "since": since,
            "since_sha256": since and after.workspace.digest(since),
            "rows": "outputs" if outputs else "embeddings",
        }


def test_forgotten_rows_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    after = erase(root, whole_user(BUSY), whole_item(ITEM))
    arrays = exported(root)
    assert (len(arrays["user"]), len(arrays["item"])) == (USERS - 1, ITEMS - 1)
    assert user_id(BUSY) not in arrays["user_ids"]
    assert item_id(ITEM) not in arrays["item_ids"]
    assert named_values(arrays) == values_of(after, after.embeddings())
    tables = {"user": arrays["user_ids"], "item": arrays["item_ids"]}
    imported = load_embeddings(root.with_name("export.npz"), tables)
    assert np.array_equal(imported.embeddings, after.embeddings()[after.known_rows()])


def test_an_older_version_is_exported_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root)
    erased = erase(root, whole_user(BUSY)).manifest.n_erased
    exported(root)
    assert "beware" not in capsys.readouterr().out
    arrays = exported(root, version=2)
    assert named_values(arrays) == values_of(before, before.embeddings())
    out = capsys.readouterr().out
    assert f"user: {USERS} of {USERS} rows" in out
    assert (
        f"beware: version 2 is older than erasures: {erased} interactions were erased after it, up to version 3" in out
    )


def test_the_summary_says_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, path = tmp_path / "ws", tmp_path / "model.safetensors"
    small_workspace(root, name="lightgcn")
    exported(root, to=path)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "version 2: lightgcn, embeddings",
        f"user: {USERS} of {USERS} rows",
        f"item: {ITEMS} of {ITEMS} rows",
        f"{path.stat().st_size} bytes: {path}",
    ]
    erase(root, whole_user(BUSY))
    capsys.readouterr()
    changed = exported(root, since=2, outputs=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "version 3: lightgcn, outputs that changed since version 2",
        f"user: {len(changed['user_ids'])} of {USERS} rows, 1 removed",
        f"item: {len(changed['item_ids'])} of {ITEMS} rows, 0 removed",
    ]


# ------------------------------------------------------------------------------------------- a model's own parameters


@SUFFIXES
def test_parameters_of_the_model_itself_come_along(tmp_path: Path, suffix: str) -> None:
    root, path = tmp_path / "ws", tmp_path / f"model{suffix}"
    drawn = np.random.default_rng(6)
    shapes = {"weight0": (4, 3), "bias0": (3,), "output": (5,), "bias": ()}
    dense = {name: np.asarray(drawn.normal(size=shape), np.float32) for name, shape in shapes.items()}
    version = retrained(small_workspace(root), drawn.normal(size=(sum(SIZES), 4)).astype(np.float32), dense)
    arrays = exported(root, to=path)
    assert {f"dense.{name}" for name in shapes} < set(arrays)
    tables = {"user": arrays["user_ids"], "item": arrays["item_ids"]}
    imported = load_embeddings(path, tables, expected_dense=shapes)
    assert imported.embeddings.tobytes() == version.embeddings().tobytes()
    assert {name: values.tobytes() for name, values in imported.dense.items()} == {
        name: values.tobytes() for name, values in dense.items()
    }

    retrained(
        version, version.embeddings(), dense | {"bias": np.float32(7).reshape(()), "bias0": np.ones(2, np.float32)}
    )
    changes = exported(root, to=path, since=3)
    assert {name: array.tolist() for name, array in changes.items() if len(name) > 9 and array.size} == {
        "dense.bias": 7.0,
        "dense.bias0": [1.0, 1.0],
    }


# ------------------------------------------------------------------------------------------------------ further fields


def test_further_fields_are_tables_like_the_others(tmp_path: Path) -> None:
    drawn = np.random.default_rng(2)
    rows = np.stack([drawn.integers(0, 5, 30), drawn.integers(5, 9, 30), drawn.integers(9, 12, 30)], axis=1)
    embeddings = drawn.normal(size=(12, 3)).astype(np.float32)
    train = Interactions(rows, np.ones(30, np.float32))
    version = make_workspace(tmp_path / "ws", (5, 4, 3), train, embeddings, ModelSpec(name="mf", dim=3), 2)
    arrays = exported(tmp_path / "ws")
    assert set(arrays) == {"user", "user_ids", "item", "item_ids", "field2", "field2_ids"}
    tables = {name: version.ids(at).to_numpy(zero_copy_only=False) for at, name in enumerate(version.layout.tables)}
    assert np.array_equal(load_embeddings(tmp_path / "export.npz", tables).embeddings, embeddings)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_versions_that_cannot_be_exported(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erase(root, pair(ROWS[0]))
    refuse(root, WorkspaceError, f"{root} has no version 9: it has 1 to 3", version=9)
    refuse(root, WorkspaceError, f"{root} has no version 9: it has 1 to 3", since=9)
    refuse(root, WorkspaceError, f"version 1 of {root} holds no model: name one", version=1)
    refuse(root, WorkspaceError, f"version 1 of {root} holds no model", since=1)
    refuse(root, ConfigError, "--since = 3: version 3 is exported: name an older version", since=3)
    refuse(root, ConfigError, "--since = 3: version 2 is exported", since=3, version=2)
    refuse(root, ConfigError, "--version = 0: ", version=0)
    refuse(tmp_path / "none", WorkspaceError, f"{tmp_path}/none holds no workspace: make one")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    (tmp_path / "there.npz").write_text("precious")
    (tmp_path / "folder.npz").mkdir()
    there = f"--to = {tmp_path}/there.npz: is there already: give another name, or replace a file with --overwrite"
    refuse(root, ConfigError, there, to=tmp_path / "there.npz")
    refuse(root, ConfigError, "is there already", to=tmp_path / "folder.npz", overwrite=True)
    for name in ("model", "model.parquet", "model.pth", "model.npz.gz"):
        refuse(
            root, ConfigError, "its kind is told by its ending: use one of .npz, .safetensors, .pt", to=tmp_path / name
        )
    refuse(root, ConfigError, f"{tmp_path}/none is no folder: make it", to=tmp_path / "none" / "model.npz")
    refuse(root, ConfigError, f"{tmp_path}/there.npz is no folder", to=tmp_path / "there.npz" / "model.npz")


def test_a_damaged_version_is_not_exported(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    version = small_workspace(root)
    path = root / version.model.base[1].path
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    refuse(root, WorkspaceError, str(path), "is damaged")


def test_overwrite_replaces_the_file(tmp_path: Path) -> None:
    root, path = tmp_path / "ws", tmp_path / "model.npz"
    small_workspace(root)
    path.write_text("old")
    assert export(ExportConfig(workspace=root, to=path, overwrite=True)) == 0
    assert "user" in read_arrays(path, lambda name: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", "ws", "ws.key"]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small_workspace(tmp_path / "ws")
    line = ["export.py", f"--workspace={tmp_path}/ws", f"--to={tmp_path}/model.pt", "--version=2"]
    statuses = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            run_command(ExportConfig, export)
        statuses.append(ended.value.code)
    assert statuses == [0, 2]
    assert "is there already" in capsys.readouterr().err
    assert Workspace(tmp_path / "ws").versions() == [1, 2]
