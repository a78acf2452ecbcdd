"""Calibration as the tests of this folder run it, on models that learnt what is worth unlearning."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import report_of
from tests.pipelines.small import SIZES, small_interactions, small_workspace

GRID = (0.2, 0.4, 0.8)
STATIONARY = TrainOptions(optimiser="lbfgs", epochs=1000)
"""To a minimum: there the smaller the damping, the closer unlearning comes to retraining."""
UNFINISHED = TrainOptions(epochs=25, patience=25, batch_size=32, learning_rate=0.01)
"""Short of one: there too small a damping goes wrong as well as one too large."""


@cache
def _embeddings(spec: ModelSpec, options: TrainOptions) -> np.ndarray:
    """Trained once for all tests that start from them."""
    data = small_interactions()
    return fit(spec, SIZES, data, auc_validation(data), options, show_progress=False).parameters.embeddings


def trained_workspace(root: Path, *, name: str = "mf", l2: float = 0.1, options: TrainOptions = STATIONARY) -> Version:
    """The small workspace with a model that is trained on its interactions, which are its held-out pairs as well."""
    embeddings = _embeddings(ModelSpec(name=name, dim=4, l2=l2), options)
    data = small_interactions()
    return small_workspace(root, embeddings=embeddings, held_out=data, options=asdict(options), name=name, l2=l2)


def config(root: Path, **changes: Any) -> CalibrateConfig:
    return CalibrateConfig(**{"workspace": root, "workers": 0, "share": 0.1, "dampings": GRID, "refine": 1} | changes)


def calibrated(root: Path, **changes: Any) -> tuple[Version, dict[str, Any]]:
    """The version after calibration, and its report."""
    assert calibrate(config(root, **changes)) == 0
    version = open_version(Workspace(root), check_content=True)
    return version, report_of(root, f"calibrate-{version.manifest.version:06d}")


def gaps(report: dict[str, Any]) -> dict[float, float]:
    return {point["damping"]: point["gap"] for point in report["curve"]}
