"""The model that docs/models.md shows: it keeps the contract, and is trained and unlearned as the page says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro

from ifru_dist.pipelines.evaluate import EvaluateConfig
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.small import BUSY, one_torch_thread, request_file, small_interactions, small_workspace, whole_user

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = (_ROOT / "docs" / "models.md").read_text()
_CONFIGS = {"train": TrainConfig, "unlearn": UnlearnConfig, "evaluate": EvaluateConfig}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's two modules are written."""
    model, contract = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    (tmp_path / "mymodels.py").write_text(model)
    (tmp_path / "test_mymodels.py").write_text(contract)
    return tmp_path


@pytest.mark.slow
def test_the_documented_model_keeps_the_contract_by_the_documented_command(folder: Path) -> None:
    words = re.search(r"PYTHONPATH=/shared/models python (-m pytest) /shared/models/(\S+)", _PAGE)
    assert words is not None
    command = [sys.executable, *words[1].split(), str(folder / words[2]), "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    ran = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) >= 30  # three classes


def test_the_documented_model_is_trained_and_unlearned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mymodels", raising=False)
    root = folder / "ws"
    small_workspace(root)
    name = "mymodels:Euclidean"
    assert (
        train(TrainConfig(workspace=root, model=name, dim=3, init_std=0.1, l2=0.02, epochs=5, learning_rate=0.05)) == 0
    )
    before = open_version(Workspace(root))
    assert (before.model.spec.name, before.embeddings().shape[1]) == (name, 4)
    assert before.dense()["log_scale"] != 0  # it was trained
    requests = request_file(folder / "requests.parquet", whole_user(BUSY))
    with one_torch_thread():
        assert (
            unlearn(UnlearnConfig(workspace=root, requests=requests, workers=0, dense="full", residual_budget=9)) == 0
        )
    after = open_version(Workspace(root), check_content=True)
    rows = small_interactions().rows
    assert after.train().rows.tolist() == rows[rows[:, 0] != BUSY].tolist()
    assert after.dense()["offset"] != before.dense()["offset"]
    touched = np.unique(rows[rows[:, 0] == BUSY])
    changed = (after.embeddings() != before.embeddings()).any(axis=1)
    assert changed[touched].all()
    assert np.isfinite(after.embeddings()).all()


def test_every_documented_command_has_options_that_exist() -> None:
    commands = [shlex.split(found) for found in re.findall(r"python (jobs/[^\n]*)", _PAGE)]
    assert len(commands) >= 4
    for script, *arguments in commands:
        config = _CONFIGS[Path(script).stem]
        assert isinstance(tyro.cli(config, args=arguments), config)
