"""Calibration as the tests of this folder run it."""

from pathlib import Path
from typing import Any

from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import report_of

GRID = (0.2, 0.4, 0.8)


def config(root: Path, **changes: Any) -> CalibrateConfig:
    return CalibrateConfig(**{"workspace": root, "workers": 0, "share": 0.1, "dampings": GRID, "refine": 1} | changes)


def calibrated(root: Path, **changes: Any) -> tuple[Version, dict[str, Any]]:
    """The version after calibration, and its report."""
    assert calibrate(config(root, **changes)) == 0
    version = open_version(Workspace(root), check_content=True)
    return version, report_of(root, f"calibrate-{version.manifest.version:06d}")


def gaps(report: dict[str, Any]) -> dict[float, float]:
    return {point["damping"]: point["gap"] for point in report["curve"]}
