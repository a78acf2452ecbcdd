"""Models of other projects and of exports become versions; what cannot be used leaves the workspace as it was."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import ConfigError, IfruError, InputError
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.export import ExportConfig, export
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import BUSY, SIZES, erase, small_workspace, tree, whole_user
from tests.workspaces import item_id, user_id

USERS, ITEMS = SIZES


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(sum(SIZES), 6)).astype(np.float32)


def state_dict(folder: Path, embeddings: np.ndarray) -> Path:
    """What LightGCN-PyTorch saves."""
    path = folder / "lgn-small-1-6.pth.tar"
    names = {"embedding_user.weight": embeddings[:USERS], "embedding_item.weight": embeddings[USERS:]}
    torch.save({name: torch.from_numpy(values[::-1].copy()) for name, values in names.items()}, path)
    return path


def lists(folder: Path) -> Path:
    """The lists of its data set, for tables in reverse order."""
    users, items = ((f"{user_id(row)}" for row in range(USERS)[::-1]), (item_id(row) for row in range(ITEMS)[::-1]))
    for table, ids in (("user", users), ("item", items)):
        lines = [f"{external} {row}\n" for row, external in enumerate(ids)]
        (folder / f"{table}_list.txt").write_text("org_id remap_id\n" + "".join(lines))
    return folder


def imported(root: Path, path: Path, **changes: Any) -> Version:
    assert train(TrainConfig(workspace=root, from_file=path, **changes)) == 0
    return open_version(Workspace(root), check_content=True)


def refuse(root: Path, error: type[IfruError], *expected: str, **changes: Any) -> None:
    """The job fails with a message of one line, and leaves every byte as it was."""
    before = tree(root.parent)
    with pytest.raises(error) as caught:
        train(TrainConfig(workspace=root, **changes))
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root.parent) == before


def test_lightgcn_pytorch_with_the_lists_of_its_data_set(tmp_path: Path, embeddings: np.ndarray) -> None:
    small_workspace(tmp_path / "ws")
    path, folder = state_dict(tmp_path, embeddings), lists(tmp_path)
    version = imported(tmp_path / "ws", path, from_ids=folder, model="lightgcn", layers=2)
    assert np.array_equal(version.embeddings(), embeddings)
    assert (version.model.source, version.model.spec.name, version.model.spec.layers) == ("imported", "lightgcn", 2)
    after = erase(tmp_path / "ws", whole_user(BUSY))
    assert after.original().manifest == version.manifest


def test_the_options_on_the_command_line(
    tmp_path: Path, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_workspace(tmp_path / "ws")
    path, folder = state_dict(tmp_path, embeddings), lists(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["train.py", f"--workspace={tmp_path}/ws", f"--from={path}", f"--from-ids={folder}"]
    )
    with pytest.raises(SystemExit) as ended:
        run_command(TrainConfig, train)
    assert ended.value.code == 0
    assert np.array_equal(open_version(Workspace(tmp_path / "ws")).embeddings(), embeddings)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_an_export_is_imported_by_another_workspace_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    first = small_workspace(tmp_path / "first", name="lightgcn")
    small_workspace(tmp_path / "second", partitions=3, embeddings=np.zeros((sum(SIZES), 2)))
    path = tmp_path / f"model{suffix}"
    assert export(ExportConfig(workspace=tmp_path / "first", to=path)) == 0
    second = imported(tmp_path / "second", path, model="lightgcn")
    assert second.embeddings().tobytes() == first.embeddings().tobytes()
    again = tmp_path / f"again{suffix}"
    assert export(ExportConfig(workspace=tmp_path / "second", to=again, version=3)) == 0
    assert np.array_equal(imported(tmp_path / "first", again).embeddings(), first.embeddings())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_a_model_with_parameters_of_its_own_goes_round_too(tmp_path: Path, suffix: str) -> None:
    small_workspace(tmp_path / "ws")
    options = {"model": "neumf", "dim": 2, "epochs": 1}
    assert train(TrainConfig(workspace=tmp_path / "ws", **options)) == 0
    trained = open_version(Workspace(tmp_path / "ws"))
    path = tmp_path / f"model{suffix}"
    assert export(ExportConfig(workspace=tmp_path / "ws", to=path)) == 0
    back = imported(tmp_path / "ws", path, **options)
    assert back.embeddings().tobytes() == trained.embeddings().tobytes()
    assert {name: values.tobytes() for name, values in back.dense().items()} == {
        name: values.tobytes() for name, values in trained.dense().items()
    }
    assert len(trained.dense()) > 2


def test_changes_alone_are_no_model(tmp_path: Path) -> None:
    root, path = tmp_path / "ws", tmp_path / "changes.npz"
    small_workspace(root)
    erase(root, whole_user(BUSY))
    assert export(ExportConfig(workspace=root, to=path, since=2)) == 0
    refuse(root, InputError, "array 'user_ids' lacks ", "ids of table 'user'", from_file=path, without_erased=True)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    small_workspace(tmp_path / "ws")
    path = tmp_path / "LightGCN.pth"
    torch.save({"config": Bomb(), "state_dict": {}}, path)
    refuse(tmp_path / "ws", InputError, f"{path}: ", "pickled Python objects, which are never loaded", from_file=path)
    assert not (tmp_path / "executed").exists()


def test_lists_alone_are_no_model(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", ConfigError, f"--from-ids = {tmp_path}: ", "add --from FILE", from_ids=tmp_path)


def test_lists_that_do_not_fit_leave_no_version(tmp_path: Path, embeddings: np.ndarray) -> None:
    small_workspace(tmp_path / "ws")
    path, folder = state_dict(tmp_path, embeddings), lists(tmp_path)
    (folder / "item_list.txt").write_text("org_id remap_id\n00000 0\n")
    refuse(tmp_path / "ws", InputError, "item_list.txt has 1 ids for the 30 rows", from_file=path, from_ids=folder)


def test_ids_of_the_file_that_were_erased_are_counted(tmp_path: Path, embeddings: np.ndarray) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erase(root, whole_user(BUSY), whole_user(3))
    path, ids = state_dict(tmp_path, embeddings), lists(tmp_path)
    options = {"from_ids": ids, "without_erased": True}
    imported(root, path, **options)
    report = json.loads((root / "reports" / "train-000004" / "report.json").read_text())
    assert report["ignored_ids"] == {"user": 2, "item": 0}
    assert report["ignored_erased"] == {"user": 2, "item": 0}
    assert report["left_out"]["users_and_items"] == 2
    assert report["left_out"]["interactions"] > 0
    (tmp_path / "ws.key").rename(tmp_path / "key")
    imported(root, path, **options)
    assert json.loads((root / "reports" / "train-000005" / "report.json").read_text())["ignored_erased"] is None
    imported(root, path, key_file=tmp_path / "key", **options)
    report = json.loads((root / "reports" / "train-000006" / "report.json").read_text())
    assert report["ignored_erased"] == {"user": 2, "item": 0}
