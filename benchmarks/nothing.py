"""Erasing nothing changes nothing: no bit of an embedding, no byte of a file, no version.

Beside each figure stands the same one for erasing something, so that a check that cannot see a change is noticed.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.criteria import Criterion
from benchmarks.parts import Case, Part
from benchmarks.protocol import BOOKCROSSING
from benchmarks.trial import Setting, Trial
from ifru_dist.influence.damping import DEFAULT_DAMPING
from ifru_dist.influence.options import SolveOptions
from ifru_dist.sharding.solo import solo_worker
from ifru_dist.sharding.worker import WorkerPlan
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


def measure(setting: Setting) -> dict[str, Any]:
    """Solve batches of no and of one example; apply the same requests twice."""
    trial = Trial(setting, BOOKCROSSING, share=0.02, flipped=False)
    trial.train()
    version = open_version(Workspace(trial.workspace))
    none, one = np.empty(0, np.int64), np.zeros(1, np.int64)
    states = [file_digests(trial.workspace)]
    for _ in range(2):
        trial.unlearn()
        states.append(file_digests(trial.workspace))
    before, once, twice = states
    return {
        "solve": {"bits_changed": bits_changed(version, none), "bits_changed_by_one": bits_changed(version, one)},
        "job": {"files_changed": files_changed(once, twice), "files_changed_at_first": files_changed(before, once)},
    }


def bits_changed(version: Version, examples: NDArray[np.int64]) -> int:
    """Bits of the embeddings, as the tables hold them, that erasing examples (by id) changes, over all rows."""
    before = version.embeddings()
    after = before.copy()
    options = SolveOptions(damping=DEFAULT_DAMPING)
    with solo_worker(WorkerPlan.for_version(version, 1)) as worker:
        outcome = worker.call("solve", examples, options)[0]
    after[outcome.rows.numpy()] = outcome.values.numpy().astype(np.float32)
    return int(np.bitwise_count(before.view(np.uint32) ^ after.view(np.uint32)).sum())


def file_digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file of a workspace, its manifests included."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def files_changed(before: dict[str, str], after: dict[str, str]) -> int:
    """Files that are new, gone or other than they were."""
    return len(dict(before.items() ^ after.items()))


NOTHING_PART = Part(
    title="Erasing nothing",
    cases=(
        Case(
            name="Book-Crossing",
            protocol=BOOKCROSSING,
            measure=measure,
            criteria=(
                Criterion(
                    name="bits of the embeddings changed by a batch of no examples",
                    figure=lambda run: run["solve"]["bits_changed"],
                    nothing=lambda run: run["solve"]["bits_changed_by_one"],
                    bound=0,
                    control="a batch of one example",
                ),
                Criterion(
                    name="files changed by requests that were applied before",
                    figure=lambda run: run["job"]["files_changed"],
                    nothing=lambda run: run["job"]["files_changed_at_first"],
                    bound=0,
                    control="the same requests at first",
                ),
            ),
        ),
    ),
)
