"""The whole way on generated data: logs, five jobs, a real local Ray cluster, and the result side by side.

python -m benchmarks.demo
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from benchmarks.jobs import REPOSITORY, run_job, submit_job
from benchmarks.synthetic import SyntheticConfig, generate
from benchmarks.tables import comparison
from cluster.local import LocalCluster
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version


@dataclass(frozen=True, kw_only=True)
class Config:
    """Size of the demo."""

    interactions: int = 200_000
    """Interactions to generate."""
    users: int = 20
    """Users to erase wholly."""
    single: int = 1_000
    """Single interactions to erase."""
    workers: int = 2
    """Workers that unlearn."""
    seed: int = 7
    """Seed of the data and of the choice of requests."""
    folder: Path = REPOSITORY / "demo-output"
    """Where everything goes; emptied first."""


def main(config: Config) -> None:
    """Generate, preprocess, train, calibrate and unlearn on a cluster, evaluate, and print the table."""
    start = time.perf_counter()
    folder = config.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logs = folder / "interactions.parquet"
    generate(SyntheticConfig(interactions=config.interactions, seed=config.seed, output=logs))
    print(f"generated {logs}")

    root = folder / "workspace"
    workspace = ("--workspace", root)
    run_job(
        "preprocess", "--logs", logs, *workspace, "--positive-threshold", 5, "--k-core", 5, output=folder / "preprocess"
    )
    reports = {"train": run_job("train", *workspace, output=folder / "train")}
    write_requests(config, root, folder / "requests.parquet")
    workers = ("--workers", config.workers)
    unlearn = (*workspace, "--requests", folder / "requests.parquet", *workers)
    with LocalCluster(cpus_per_node=config.workers + 1) as cluster:
        submit_job("calibrate", *workspace, *workers, output=folder / "calibrate", environment=cluster.environment)
        reports["unlearn"] = submit_job("unlearn", *unlearn, output=folder / "unlearn", environment=cluster.environment)
    reports["evaluate"] = run_job("evaluate", *workspace, "--against", "retrain", output=folder / "evaluate")
    print(f"\n{comparison(reports)}\n\nreports: {folder}/unlearn and {folder}/evaluate")
    print(f"the demo took {time.perf_counter() - start:.0f} s")


def write_requests(config: Config, root: Path, path: Path) -> None:
    """Requests for some whole users and some single interactions of others, from the training data."""
    version = open_version(Workspace(root))
    ids = [version.ids(table).to_numpy(zero_copy_only=False) for table in (0, 1)]
    rng = np.random.default_rng(config.seed)
    rows = version.train().rows
    users = rng.choice(np.unique(rows[:, 0]), config.users, replace=False)
    others = np.flatnonzero(~np.isin(rows[:, 0], users))
    pairs = rows[rng.choice(others, config.single, replace=False)]
    single = pd.DataFrame(
        {"user": ids[0][pairs[:, 0]], "item": ids[1][pairs[:, 1] - version.layout.offsets[1]], "scope": "interaction"}
    )
    whole = pd.DataFrame({"user": ids[0][users], "item": None, "scope": "user"})
    pd.concat([single.astype({"user": str, "item": str}), whole.astype({"user": str})]).to_parquet(path)
    print(f"wrote {path}: {config.users} users wholly and {config.single} single interactions")


if __name__ == "__main__":
    main(tyro.cli(Config))
