"""The request ledger and the suppression list: what was asked and became of it, and digests of all that was erased."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from ifru_dist.workspace.files import FileEntry, open_arrow, write_table
from ifru_dist.workspace.keys import DIGEST_BYTES, keyed_digest

Status = Literal["applied", "duplicate", "not_found", "rejected"]
Scope = Literal["interaction", "user", "item"]


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """What became of one request. It holds no id of a user or an item in the clear."""

    request_id: str
    scope: Scope
    digest: bytes
    """Keyed digest of scope, user and item."""
    status: Status
    interactions: int
    """Examples that this request erased."""
    reason: str = ""


@dataclass(frozen=True)
class Ledger:
    """All entries of a version and everything that was ever erased, as keyed digests."""

    applied: frozenset[tuple[str, bytes]]
    """Request id and content digest of every applied request."""
    suppressed: frozenset[bytes]

    def was_erased(self, key: bytes, scope: Scope, user: str | None, item: str | None) -> bool:
        """Whether what a request names was erased before, by itself or with its whole user or item."""
        wider = [("user", user, None), ("item", None, item)] if scope == "interaction" else []
        return any(keyed_digest(key, *what) in self.suppressed for what in [(scope, user, item), *wider])


def read_ledger(root: Path, requests: Sequence[FileEntry], suppression: Sequence[FileEntry]) -> Ledger:
    """Read the ledger and suppression files of a version."""
    applied: set[tuple[str, bytes]] = set()
    for entry in requests:
        table = open_arrow(root, entry).read_all()
        columns = [table.column(name).to_pylist() for name in ("request_id", "digest", "status")]
        applied.update((name, digest) for name, digest, status in zip(*columns, strict=True) if status == "applied")
    suppressed: set[bytes] = set()
    for entry in suppression:
        suppressed.update(open_arrow(root, entry).read_all().column("digest").to_pylist())
    return Ledger(frozenset(applied), frozenset(suppressed))


def write_requests(root: Path, entries: Sequence[LedgerEntry], version: int) -> FileEntry:
    """Write the entries of one batch, in the order of the requests."""
    columns = {
        "request_id": pa.array([entry.request_id for entry in entries], pa.string()),
        "scope": pa.array([entry.scope for entry in entries], pa.string()),
        "digest": pa.array([entry.digest for entry in entries], pa.binary(DIGEST_BYTES)),
        "status": pa.array([entry.status for entry in entries], pa.string()),
        "interactions": pa.array([entry.interactions for entry in entries], pa.int64()),
        "reason": pa.array([entry.reason for entry in entries], pa.string()),
        "version": pa.array([version] * len(entries), pa.int64()),
    }
    return write_table(root, "requests/batch", columns)


def write_suppression(root: Path, digests: Sequence[bytes]) -> FileEntry:
    """Write the digests of what one batch erased, sorted."""
    return write_table(root, "suppression/erased", {"digest": pa.array(sorted(digests), pa.binary(DIGEST_BYTES))})
