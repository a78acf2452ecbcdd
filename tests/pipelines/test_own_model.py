"""A model's class of one's own: where workers find it, and what jobs say of one that cannot be used."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.batches import BATCH, copy, refuse, run, timeless
from tests.pipelines.small import one_torch_thread, small_workspace, tree

NAME = "model_of_this_test:Own"
_MODULE = """
import torch
from ifru_dist.models.base import Model

class Own(Model):
    @property
    def width(self):
        return self.spec.dim + {further}

    def initial_dense(self, generator):
        return {{"{name}": torch.ones(())}}

    def score(self, rows, dense):
        return {score}

class NoModel:
    pass

class Scoreless(Model):
    pass
"""
_SCORE = 'dense["scale"] * (rows[:, 0] * rows[:, 1]).sum(dim=-1)'


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules that only this process searches."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "modules")
    # Of two versions within a second the bytecode of the first would be taken for that of the second.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "modules"
    sys.modules.pop("model_of_this_test", None)


def write(folder: Path, *, further: int = 0, name: str = "scale", score: str = _SCORE) -> None:
    """Write the module, and forget the one that was imported before."""
    (folder / "model_of_this_test.py").write_text(_MODULE.format(further=further, name=name, score=score))
    sys.modules.pop("model_of_this_test", None)


def own_workspace(folder: Path) -> Path:
    """A workspace with a model of the class, as it is written first."""
    write(folder)
    root = folder.parent / "ws" / "ws"
    small_workspace(root)
    assert train(TrainConfig(workspace=root, model=NAME, dim=4, init_std=0.3, epochs=3, learning_rate=0.05)) == 0
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_workers_find_a_class_where_the_job_finds_it(folder: Path, tmp_path: Path) -> None:
    # Ray was started before the folder was searched, as a cluster is that was started elsewhere.
    root = own_workspace(folder)
    versions = [run(copy(root, tmp_path / f"ws{n}"), *BATCH, workers=n, dense="full") for n in (0, 2)]
    assert timeless(versions[0].manifest) == timeless(versions[1].manifest)
    before = open_version(Workspace(root))
    assert not np.array_equal(versions[1].embeddings(), before.embeddings())
    assert versions[1].dense()["scale"] != before.dense()["scale"]


@pytest.mark.parametrize(
    ("name", "score", "expected"),
    [
        ("no_such_module:Own", _SCORE, "cannot be imported (No module named 'no_such_module')"),
        ("model_of_this_test:Other", _SCORE, "model_of_this_test has no Other: check the spelling of the class"),
        ("model_of_this_test:NoModel", _SCORE, "is no subclass of ifru_dist.models.base.Model"),
        ("model_of_this_test:Scoreless", _SCORE, "defines no score: see docs/models.md"),
        (NAME, "dense[", "importing model_of_this_test raised SyntaxError ("),
        (NAME, "rows[:, 7]", "its score raised IndexError ("),
        (NAME, "rows[:, 0]", "its score raised TypeError (torch.float64 [3, 48] for torch.float64 [3, 2, 48]"),
        (NAME, "rows[:, 0, 0] * rows[0, 0, 0].item()", "the score of an example depends on the others"),
        (NAME, f"{_SCORE} if rows[0, 0, 0] < 9 else None", "its score, transformed by torch.func, raised RuntimeError"),
    ],
)
def test_a_class_that_cannot_be_trained_is_refused(
    name: str, score: str, expected: str, folder: Path, tmp_path: Path
) -> None:
    small_workspace(tmp_path / "ws" / "ws")
    write(folder, score=score)
    before = tree(tmp_path / "ws")
    with pytest.raises(ConfigError) as caught:
        train(TrainConfig(workspace=tmp_path / "ws" / "ws", model=name))
    assert str(caught.value).startswith(f"--model = {name}: {expected}")
    assert tree(tmp_path / "ws") == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (None, "cannot be imported (No module named 'model_of_this_test'): put the module on PYTHONPATH"),
        ({"further": 1}, "has rows of 5 columns, but those that were trained have 4: bring back the class"),
        ({"score": 'dense["other"] * rows.sum((1, 2))'}, "its score raised KeyError ('other')"),
        ({"score": "rows[:, 0, 0] / (1 / 0)"}, "its score raised ZeroDivisionError (division by zero)"),
    ],
    ids=["gone", "wider", "other parameters", "raises"],
)
def test_a_class_that_has_changed_since_it_was_trained_is_refused(
    changes: dict[str, object] | None, expected: str, folder: Path
) -> None:
    root = own_workspace(folder)
    if changes is None:
        (folder / "model_of_this_test.py").unlink()
        sys.modules.pop("model_of_this_test")
    else:
        write(folder, **changes)
    refuse(root, BATCH, ConfigError, f"--model = {NAME}: {expected}")
    before = tree(root)
    for job in (lambda: evaluate(EvaluateConfig(workspace=root)), lambda: calibrate(calibration(root))):
        with pytest.raises(ConfigError) as caught:
            job()
        assert expected in str(caught.value)
    assert tree(root) == before


def calibration(root: Path) -> CalibrateConfig:
    return dataclasses.replace(CalibrateConfig(workspace=root), workers=0)
