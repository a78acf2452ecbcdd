"""What a batch asks of the file system does not grow with the versions before it: it is counted, not timed."""

import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.interactions import Interactions
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.erasing import EraseFlags, Eraser
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.requests import Request
from tests.workspaces import item_id, make_workspace, user_id

EARLY, LATE = 5, 60
"""Versions, the later one shortly before the lists of files are full: folding is another matter."""
ITEMS, EACH = 6, 3
COUNTED = ((os, "stat"), (os, "scandir"), (os, "listdir"), (os, "open"), (io, "open"), (pa, "memory_map"))


def batch_of(number: int) -> list[Request]:
    """A pair that lies in training and held out, and a whole user: every list of the manifest gets a file."""
    pair = Request(request_id=None, scope="interaction", user=str(user_id(2 * number)), item=item_id(0))
    return [pair, Request(request_id=None, scope="user", user=str(user_id(2 * number + 1)), item=None)]


def eraser_on(root: Path, workers: Workers) -> Eraser:
    """A coordinator of a workspace in which every user has the first items, and the first of them held out, too."""
    users = 2 * LATE
    rows = np.array([(user, users + item) for user in range(users) for item in range(EACH)])
    train = Interactions(rows, np.ones(len(rows), np.float32))
    embeddings = np.random.default_rng(1).normal(size=(users + ITEMS, 4))
    spec, held_out = ModelSpec(dim=4, l2=0.02), train.take(np.arange(0, len(rows), EACH))
    version = make_workspace(root, (users, ITEMS), train, embeddings, spec, 3, held_out)
    return Eraser(version, EraseFlags(workers=0, residual_budget=100), workers)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the file system was asked, by the name of the call; nothing waits for the disk."""
    seen: Counter[str] = Counter()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for module, name in COUNTED:
        call = getattr(module, name)

        def counted(*args: Any, _call: Any = call, _name: str = f"{module.__name__}.{name}", **options: Any) -> Any:
            seen[_name] += 1
            return _call(*args, **options)

        monkeypatch.setattr(module, name, counted)
    return seen


def test_a_batch_asks_the_file_system_as_often_after_many_versions_as_after_few(
    tmp_path: Path, counts: Counter[str]
) -> None:
    by_version = {}
    with Workers(EraseFlags(workers=0)) as workers:
        eraser = eraser_on(tmp_path / "ws", workers)
        with eraser.version.workspace.lock("test"):
            for number in range(LATE - 2):
                counts.clear()
                eraser.erase(batch_of(number))
                by_version[eraser.version.manifest.version] = dict(counts)
    lists = eraser.version.manifest
    assert {len(files) for files in (lists.tombstones, lists.forgotten, lists.held_out_erased)} == {LATE - 2}
    assert by_version[LATE] == by_version[EARLY]
    assert by_version[LATE].get("os.scandir", 0) + by_version[LATE].get("os.listdir", 0) == 0
    assert 0 < by_version[LATE]["pyarrow.memory_map"] <= 12
