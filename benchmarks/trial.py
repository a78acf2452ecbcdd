"""One original model by a protocol, in a folder of its own, and the ordinary jobs on it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import run_job
from benchmarks.protocol import Protocol, prepare
from benchmarks.records import kept
from ifru_dist.workspace.store import Workspace

IN_PROCESS = ("--workers", 0)
"""One worker without Ray: the same bits as with any number of workers."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how often one seed is measured."""

    data: Path
    """Folder of the ratings."""
    folder: Path
    """Empty, and gone afterwards."""
    seed: int
    """Of the original model."""
    references: int
    """Retrained models."""

    @property
    def reference_seed(self) -> int:
        """Seed of the first reference: far from those of the original models and of the calibrations' retrainings."""
        return 1000 * (self.seed + 1)


class Trial:
    """A workspace with the training data of a protocol, and requests for the share that is to be erased."""

    def __init__(self, setting: Setting, protocol: Protocol, *, share: float, flipped: bool) -> None:
        """Split the ratings and preprocess them."""
        self._setting, self._flipped, self.folder = setting, flipped, setting.folder
        self.workspace, self.requests = self.folder / "workspace", self.folder / "requests.parquet"
        prepare(protocol, setting.data / protocol.file, self.folder, share=share, flipped=flipped)
        held_out = ("--valid", self.folder / "valid.parquet", "--test", self.folder / "test.parquet")
        self._run("preprocess", "--logs", self.folder / "train.parquet", *held_out, "--label-column", "label")

    def train(self, *options: object) -> dict[str, Any]:
        """Train the original model."""
        return self._run("train", "--seed", self._setting.seed, *options)

    def calibrate(self) -> dict[str, Any]:
        """Calibrate the damping on other pairs than those to be erased."""
        return self._run("calibrate", "--exclude", self.requests, *IN_PROCESS)

    def unlearn(self, *options: object, workspace: Path | None = None) -> dict[str, Any]:
        """Erase the requested share at once."""
        return self._run("unlearn", "--requests", self.requests, *IN_PROCESS, *options, workspace=workspace)

    def evaluate(self, *, workspace: Path | None = None) -> dict[str, Any]:
        """Measure what was erased beside doing nothing and retraining; the same seeds give the same references."""
        references = ("--references", self._setting.references, "--reference-seed", self._setting.reference_seed)
        labels = ("--erased-labels", "wrong") if self._flipped else ()
        return self._run("evaluate", "--against", "retrain", *references, *labels, workspace=workspace)

    def copy(self, name: str) -> Path:
        """A copy of the workspace as it is, with its key."""
        source, target = Workspace(self.workspace), Workspace(self.folder / name)
        shutil.copytree(source.root, target.root)
        shutil.copy2(source.default_key_file, target.default_key_file)
        return target.root

    def _run(self, job: str, *options: object, workspace: Path | None = None) -> dict[str, Any]:
        """Run a job on the workspace, or on a copy of it; returns what is kept of its report."""
        root = workspace or self.workspace
        return kept(run_job(job, "--workspace", root, *options, output=self.folder / f"{job}-{root.name}"))
