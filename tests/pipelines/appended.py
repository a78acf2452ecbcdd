"""Logs that bring new users, items and interactions to the small workspace of these tests."""

from pathlib import Path
from typing import Any

import pandas as pd

from ifru_dist.pipelines.append import AppendConfig, append
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import ROWS
from tests.pipelines.small import BUSY, SIZES
from tests.workspaces import item_id, user_id

Pair = tuple[int, str]
NEW_USER, NEW_ITEM = 100_000, "new"
PRESENT = {(user_id(int(user)), item_id(int(item) - SIZES[0])) for user, item in ROWS}
"""Training pairs of the small workspace."""
_LACKED = [
    (user_id(user), item_id(item))
    for user in dict.fromkeys((BUSY, 0, 1, 2))
    for item in range(SIZES[1])
    if (user_id(user), item_id(item)) not in PRESENT
]
FRESH: list[Pair] = [
    *_LACKED[::5],
    (NEW_USER, item_id(3)),
    (NEW_USER, NEW_ITEM),
    (NEW_USER + 1, item_id(4)),
    (user_id(BUSY), NEW_ITEM),
    (user_id(5), NEW_ITEM),
]
"""Pairs of old and new users with old and new items, none of which the workspace has."""


def write_logs(path: Path, pairs: list[Pair], **columns: Any) -> Path:
    """Logs in which every other pair is positive."""
    frame = pd.DataFrame(pairs, columns=["user", "item"]).assign(rating=[float(n % 2) for n in range(len(pairs))])
    frame.assign(**columns).to_parquet(path)
    return path


def appended(root: Path, pairs: list[Pair], **changes: Any) -> Version:
    """Append pairs; returns the version after it."""
    logs = write_logs(root.with_name("more.parquet"), pairs)
    assert append(AppendConfig(**{"workspace": root, "logs": str(logs), "positive_threshold": 0.5} | changes)) == 0
    return open_version(Workspace(root), check_content=True)


def pairs_of(version: Version, part: str = "train") -> list[Pair]:
    """Pairs of a part as ids, in their order."""
    users, items = (version.ids(table).to_pylist() for table in (0, 1))
    data = version.train() if part == "train" else version.held_out(part)
    return [(users[user], items[item - len(users)]) for user, item in data.pairs.tolist()]
