"""Several batches by workers that stand from one to the next: the same bits as by fresh workers for each of them."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import GuardError
from ifru_dist.pipelines import gangs
from ifru_dist.pipelines.erasing import Eraser
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.requests import read_requests
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.unlearn_report import BatchResult
from ifru_dist.sharding.worker import Change, Worker
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import ROWS, config, copy, run, timeless
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)

BATCHES = [
    [pair(ROWS[0]), pair(ROWS[50])],
    [whole_user(LONER), whole_item(int(ROWS[7, 1]) - SIZES[0])],
    [pair(ROWS[0])],  # erased before
    [whole_user(BUSY), pair(ROWS[70])],
    [pair(rows) for rows in ROWS[[20, 90, 150]]],
]
MODELS = [
    {"model": "mf"},
    {"model": "lightgcn", "layers": 2},
    {"model": "mf", "loss": "bpr"},
    {"model": "lightgcn", "loss": "bpr", "layers": 1},
    {"model": "neumf", "hidden": (4,)},
]


def trained(root: Path, options: dict[str, Any]) -> Version:
    """The small workspace with a model that adam trained for a little while."""
    small_workspace(root, held_out=small_interactions())
    adam = {"epochs": 6, "patience": 6, "batch_size": 64, "learning_rate": 0.03, "l2": 0.02, "dim": 4}
    train(TrainConfig(**{"workspace": root, **adam, **options}))
    return open_version(Workspace(root))


def files_of(root: Path) -> dict[str, bytes | None]:
    """What a workspace holds beside manifests, reports and the lock, which hold times."""
    return {
        name: data for name, data in tree(root).items() if name.split("/")[0] not in ("versions", "reports", "lock")
    }


def manifests_of(root: Path) -> list[Any]:
    """What all versions say, but for their times and the digests of manifests, which hold these."""
    workspace = Workspace(root)
    return [timeless(workspace.manifest(number)).__dict__ | {"parent": None} for number in workspace.versions()]


def erase_all(root: Path, **changes: Any) -> list[BatchResult]:
    """All batches by one coordinator with its workers."""
    requests = [read_requests(request_file(root.with_name(f"{k}.parquet"), *batch)) for k, batch in enumerate(BATCHES)]
    flags = config(root, root, **changes)
    with Workspace(root).lock("test"), Workers(flags) as workers:
        eraser = Eraser(open_version(Workspace(root)), flags, workers)
        return [eraser.erase(batch) for batch in requests]


@pytest.mark.parametrize("options", MODELS, ids=lambda options: "-".join(map(str, options.values())))
def test_standing_workers_make_the_versions_that_fresh_ones_make(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = {"dense": "full"} if options["model"] == "neumf" else {}
    trained(tmp_path / "ws", options)
    fresh, standing = (copy(tmp_path / "ws", tmp_path / name) for name in ("fresh", "standing"))
    for batch in BATCHES:
        run(fresh, *batch, **dense)
    loaded: list[int] = []
    start = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda worker, plan: loaded.append(plan.version) or start(worker, plan))
    results = erase_all(standing, **dense)
    assert [result.version_after for result in results] == [4, 5, 5, 6, 7]
    assert loaded == [3]  # once, before the first batch
    assert manifests_of(standing) == manifests_of(fresh)
    assert files_of(standing) == files_of(fresh)


@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
@pytest.mark.parametrize("model", ["mf", "lightgcn"])
def test_a_standing_gang_makes_the_same_versions_also_when_a_worker_dies_between_batches(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "ws", {"model": model})
    alone, standing, dying = (copy(tmp_path / "ws", tmp_path / name) for name in ("alone", "standing", "dying"))
    erase_all(alone)
    erase_all(standing, workers=2)
    assert manifests_of(standing) == manifests_of(alone)

    advance = gangs.StandingGang.advance

    def killed(gang: Any, change: Change) -> None:
        advance(gang, change)
        if change.version == 5:
            os.kill(gang._gang.call("process_id")[1], signal.SIGKILL)

    monkeypatch.setattr(gangs.StandingGang, "advance", killed)
    failed = [len(result.failed_attempts) for result in erase_all(dying, workers=2)]
    assert failed == [0, 0, 0, 1, 0]
    assert manifests_of(dying) == manifests_of(alone)
    assert files_of(dying) == files_of(alone)


def test_a_batch_that_a_guard_refuses_costs_the_others_nothing(tmp_path: Path) -> None:
    trained(tmp_path / "ws", {"model": "mf"})
    flags = config(tmp_path / "ws", tmp_path, max_interactions=2)
    one, many = (
        read_requests(request_file(tmp_path / f"{name}.parquet", *batch))
        for name, batch in (("one", [pair(ROWS[0])]), ("many", [whole_user(BUSY)]))
    )
    with Workspace(tmp_path / "ws").lock("test"), Workers(flags) as workers:
        eraser = Eraser(open_version(Workspace(tmp_path / "ws")), flags, workers)
        with pytest.raises(GuardError, match="--max-interactions = 2, but these requests erase"):
            eraser.erase(many)
        assert eraser.erase(one).version_after == 4
    alive = open_version(Workspace(tmp_path / "ws"), check_content=True).train()
    assert len(alive) == len(small_interactions()) - int((ROWS[0] == ROWS).all(axis=1).sum())
    assert np.isin(BUSY, alive.rows[:, 0])
