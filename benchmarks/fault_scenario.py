"""A small workspace and a folder of requests, to be erased while something fails, and what is compared afterwards."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.files import open_arrow
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

_USERS, _ITEMS, _INTERACTIONS = 60, 50, 1500
MAX_BATCH = 5
"""Requests in a batch: the scenario's make several."""


@dataclass(frozen=True)
class Scenario:
    """A folder that holds ``workspace``, its key, and ``inbox``."""

    folder: Path

    @property
    def root(self) -> Path:
        """The workspace."""
        return self.folder / "workspace"

    @property
    def inbox(self) -> Path:
        """The watched folder."""
        return self.folder / "inbox"

    def copy(self, folder: Path) -> "Scenario":
        """The same in another folder."""
        shutil.copytree(self.folder, folder)
        return Scenario(folder)


def make_scenario(folder: Path, *, model: str = "mf", seed: int = 1) -> Scenario:
    """Preprocess and train on drawn interactions, and put some files of requests into the inbox.

    Among the requests are interactions, whole users and items, some that are asked for twice and some of nobody.
    """
    folder.mkdir(parents=True)
    scenario, rng = Scenario(folder), np.random.default_rng(seed)
    logs = pd.DataFrame(
        {
            "user": rng.integers(0, _USERS, _INTERACTIONS),
            "item": [f"item {item}" for item in rng.zipf(1.3, _INTERACTIONS) % _ITEMS],
            "rating": rng.integers(1, 11, _INTERACTIONS),
        }
    )
    logs.to_parquet(folder / "logs.parquet")
    preprocess(PreprocessConfig(logs=str(folder / "logs.parquet"), workspace=scenario.root, positive_threshold=5))
    train(TrainConfig(workspace=scenario.root, model=model, dim=6, epochs=8, patience=8, batch_size=128))
    shutil.rmtree(scenario.root / "reports")  # they hold seconds
    _put_requests(scenario, logs, rng)
    return scenario


def _put_requests(scenario: Scenario, logs: pd.DataFrame, rng: np.random.Generator) -> None:
    """Four files of requests, the first one the oldest."""
    scenario.inbox.mkdir()
    drawn = logs.sample(12, random_state=int(rng.integers(1 << 30)))
    singles = [{"user": str(row.user), "item": row.item, "scope": "interaction"} for row in drawn.itertuples()]
    users = [{"user": str(user), "item": None, "scope": "user"} for user in rng.choice(_USERS, 3, replace=False)]
    files = [
        singles[:4],
        [*users[:2], singles[4], singles[0]],
        [{"user": None, "item": logs["item"].iloc[0], "scope": "item"}, *singles[5:8]],
        [users[2], {"user": "nobody", "item": None, "scope": "user"}, *singles[8:]],
    ]
    for number, rows in enumerate(files):
        path = scenario.inbox / f"requests-{number}.parquet"
        frame = pd.DataFrame(rows, dtype=object).assign(
            request_id=[f"ticket {number}-{row}" for row in range(len(rows))]
        )
        frame.to_parquet(path)
        os.utime(path, (1_700_000_000 + number,) * 2)


@dataclass(frozen=True)
class Ending:
    """What a scenario ended in, without times."""

    manifests: list[dict[str, Any]]
    receipts: dict[str, Any]
    left: list[str]
    """Files that still hold requests."""

    @property
    def lost(self) -> int:
        """Requests that were put in and never answered, by file."""
        return len(self.left)


def ending_of(scenario: Scenario) -> Ending:
    """Read how a scenario ended; every file of every version is checked.

    Raises:
        WorkspaceError: something is damaged.
    """
    workspace = Workspace(scenario.root)
    manifests = []
    for number in workspace.versions():
        manifest = open_version(workspace, number, check_content=True).manifest
        manifests.append({**vars(dataclasses.replace(manifest, created="", parent=None))})
    receipts = {}
    for path in sorted((scenario.inbox / "receipts").glob("*.json")):
        receipt = json.loads(path.read_text())
        receipts[path.name] = {name: value for name, value in receipt.items() if name != "finished"}
    files = (path for path in scenario.inbox.rglob("*") if path.is_file() and path.suffix == ".parquet")
    return Ending(manifests, receipts, sorted(path.name for path in files))


def doubled(scenario: Scenario) -> int:
    """Requests that the ledger holds as applied more than once, or more than once at all from one row of a file."""
    manifest = Workspace(scenario.root).manifest()
    applied, rows = Counter[Any](), Counter[Any]()
    for entry in manifest.requests:
        for record in open_arrow(scenario.root, entry).read_all().to_pylist():
            rows[record["delivery"], record["row"]] += 1
            applied[record["request_id"], record["digest"]] += record["status"] == "applied"
    return sum(count > 1 for count in applied.values()) + sum(count > 1 for count in rows.values())
