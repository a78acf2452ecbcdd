"""jobs/restore.py: make an earlier version's model current again, and bring nothing back that was erased since."""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.pipelines.catching_up import CatchingUp, CatchUpFlags, caught_up_report, solver_in_words
from ifru_dist.pipelines.residual_budget import ResidualBudget
from ifru_dist.pipelines.unlearn import RETRAINING_DUE
from ifru_dist.workspace.commits import commit_restoration
from ifru_dist.workspace.manifest import ModelRecord
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


@dataclass(frozen=True, kw_only=True)
class RestoreConfig(CatchUpFlags):
    """Make an earlier version's model current again; what was erased since stays erased, and is unlearned from it."""

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    version: Annotated[int, Field(ge=1)]
    """The version whose model is to be current again; the data stay as they are now."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/restore-VERSION."""


def restore(config: RestoreConfig) -> int:
    """Run the job: one new version, and a report.

    Returns:
        0; RETRAINING_DUE when the model is restored, but what stays unsolved in it is past the budget.

    Raises:
        IfruError: nothing was committed, and the workspace is as it was.
    """
    started = time.perf_counter()
    config = validated(config)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, workspace.root / "reports")
    with workspace.lock("restore"):
        current = open_version(workspace, check_content=True)
        older, calibrated_in = _with_calibration(current, _opened(current, config.version))
        commit = partial(commit_restoration, current, older)
        result = CatchingUp(config, current, older).run(commit, {"restored_version": config.version})
    result.seconds["job"] = time.perf_counter() - started
    report = caught_up_report(result, config) | {
        "job": "restore",
        "restored_version": config.version,
        "calibration_of": calibrated_in,
    }
    summary = restore_summary(report, result.residual_budget)
    folder = config.output or workspace.root / "reports" / f"restore-{result.version_after:06d}"
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return RETRAINING_DUE if result.residual_budget.retraining_due else 0


def restore_summary(report: dict[str, Any], budget: ResidualBudget) -> str:
    """The report in words."""
    line = (
        f"version {report['version_before']} -> {report['version_after']}: the model of version "
        f"{report['restored_version']}, from which {report['interactions_erased']} interactions that were erased since "
        f"are unlearned: {report['rows_updated']} rows updated, {report['rows_forgotten']} users and items among them "
        "reset wholly"
    )
    lines = [line, *solver_in_words(report)]
    if report["calibration_of"] is not None:
        lines.append(
            f"the model was not calibrated yet in version {report['restored_version']}: the calibration that made "
            f"version {report['calibration_of']}, which is of the same training, is its own from here on"
        )
    return "\n".join([*lines, budget.in_words()])


def _opened(current: Version, number: int) -> Version:
    """The older version, if it has a model that can be made current."""
    workspace, now = current.workspace, current.manifest
    if number == now.version:
        raise ConfigError(f"--version = {number}: this version is current already: name an older one")
    older = open_version(workspace, number, check_content=True)
    if older.manifest.model is None:
        raise WorkspaceError(
            f"version {number} of {workspace.root} holds no model: name one that was made by jobs/train.py or after it"
        )
    return older


def _with_calibration(current: Version, older: Version) -> tuple[Version, int | None]:
    """The older version with a calibration that was made later, where it lacks one, and the version which that made.

    A damping belongs to a training, not to the batches after it (docs/method.md).
    """
    if older.model.calibration is not None:
        return older, None
    for number in range(current.manifest.version, older.manifest.version, -1):
        model = current.workspace.manifest(number).model
        if model and model.trained_version == older.model.trained_version and model.calibration:
            lent = older.with_model(replace(older.model, calibration=model.calibration))
            return lent, _calibrated_in(current.workspace, model, number)
    return older, None


def _calibrated_in(workspace: Workspace, model: ModelRecord, number: int) -> int:
    """The first version, up to one that holds a model with a calibration, that holds this calibration."""
    for version in range(model.trained_version, number):
        manifest = workspace.manifest(version)
        if manifest.kind == "calibrate" and manifest.model and manifest.model.calibration == model.calibration:
            return version
    return number
