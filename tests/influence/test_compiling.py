"""Compiled loops that lie on disk, when a file changes that they are made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).resolve().parents[2] / "ifru_dist"
_LOOPS = """
import numpy as np, torch
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.pairs import PairEdges
from ifru_dist.models.losses import LOSSES
ones = torch.ones(1, dtype=torch.float64)
edges = PairEdges(indptr=torch.tensor([0, 1]), col=torch.zeros(1, dtype=torch.int32), label=ones, factor=ones,
                  erased=torch.zeros(1, dtype=torch.bool), loss=LOSSES["squared"])
rows = torch.ones(1, 2, dtype=torch.float64)
print(float(NumbaKernels().pairs(edges, 2 * rows, rows).value))
"""


def loss_of_a_pair(folder: Path) -> float:
    """The squared loss of a score of 4 and a label of 1, as the package in a folder computes it in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", _LOOPS], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return float(run.stdout)


@pytest.mark.slow
def test_loops_are_compiled_anew_when_a_file_changes_whose_steps_they_inline(tmp_path: Path) -> None:
    shutil.copytree(_PACKAGE, tmp_path / "ifru_dist", ignore=shutil.ignore_patterns("__pycache__"))
    assert loss_of_a_pair(tmp_path) == 4.5
    assert list(tmp_path.rglob("pair_loops*.nbc"))
    losses = tmp_path / "ifru_dist" / "influence" / "edge_losses.py"
    source = losses.read_text()
    changed = source.replace("0.5 * temperature * gap * gap", "2.0 * temperature * gap * gap")
    assert changed != source
    losses.write_text(changed)
    assert loss_of_a_pair(tmp_path) == 18.0
