"""The request ledger: what was asked and became of it, beside digests of all that was erased."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_table
from ifru_dist.workspace.keys import DIGEST_BYTES, keyed_digest
from ifru_dist.workspace.suppression import read_suppressed

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
    received: str = ""
    """UTC time at which the request came, ISO 8601."""
    delivery: str = ""
    """Keyed digest of the file that it came in, in hex; empty where that was not watched for."""
    row: int = 0
    """Its row there, from 1."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What became of a request, and when."""

    request_id: str
    scope: Scope
    status: Status
    interactions: int
    reason: str
    version: int | None
    """The version that it was applied in; None where it was not."""


@dataclass(frozen=True)
class Ledger:
    """All applied requests of a version and all that was erased and not released again, as keyed digests."""

    applied: dict[tuple[str, bytes], int]
    """Request id and content digest of every applied request -> the version that it was applied in."""
    suppressed: set[bytes]

    def add(self, entries: Sequence[LedgerEntry], suppressed: Sequence[bytes], version: int) -> None:
        """Go on with what a batch added as a version."""
        applied = (entry for entry in entries if entry.status == "applied")
        self.applied.update({(entry.request_id, entry.digest): version for entry in applied})
        self.suppressed.update(suppressed)

    def settled(self, entry: LedgerEntry) -> Settled:
        """What became of the request of an entry."""
        return Settled(
            request_id=entry.request_id,
            scope=entry.scope,
            status=entry.status,
            interactions=entry.interactions,
            reason=entry.reason,
            version=self.applied.get((entry.request_id, entry.digest)),
        )

    def was_erased(self, key: bytes, scope: Scope, user: str | None, item: str | None) -> bool:
        """Whether what a request names was erased before, by itself or with its whole user or item."""
        wider = [("user", user, None), ("item", None, item)] if scope == "interaction" else []
        return any(keyed_digest(key, *what) in self.suppressed for what in [(scope, user, item), *wider])


def read_ledger(
    root: Path, requests: Sequence[FileEntry], suppression: Sequence[FileEntry], released: Sequence[FileEntry] = ()
) -> Ledger:
    """Read the ledger and suppression files of a version, and those of what it has released."""
    applied: dict[tuple[str, bytes], int] = {}
    for entry in requests:
        table = open_arrow(root, entry).read_all()
        table = table.filter(pc.equal(table.column("status"), "applied"))
        columns = [table.column(name).to_pylist() for name in ("request_id", "digest", "version")]
        applied.update({(name, digest): version for name, digest, version in zip(*columns, strict=True)})
    return Ledger(applied, read_suppressed(root, suppression, released))


def read_deliveries(
    root: Path, requests: Sequence[FileEntry], deliveries: Sequence[str]
) -> dict[tuple[str, int], Settled]:
    """What became of the requests of some deliveries that are in a version, by delivery and row."""
    found: dict[tuple[str, int], Settled] = {}
    wanted = pa.array(deliveries, pa.string())
    for entry in requests:
        table = open_arrow(root, entry).read_all()
        if "delivery" not in table.column_names:  # of an earlier release
            continue
        for row in table.filter(pc.is_in(table.column("delivery"), value_set=wanted)).to_pylist():
            found[row["delivery"], row["row"]] = Settled(
                **{name: row[name] for name in ("request_id", "scope", "status", "interactions", "reason")},
                version=row["version"] if row["status"] == "applied" else None,
            )
    return found


def write_requests(root: Path | Staging, entries: Sequence[LedgerEntry], version: int) -> FileEntry:
    """Write the entries of one batch, in the order of the requests; the version says when it was finished."""
    columns = {
        "request_id": pa.array([entry.request_id for entry in entries], pa.string()),
        "scope": pa.array([entry.scope for entry in entries], pa.string()),
        "digest": pa.array([entry.digest for entry in entries], pa.binary(DIGEST_BYTES)),
        "status": pa.array([entry.status for entry in entries], pa.string()),
        "interactions": pa.array([entry.interactions for entry in entries], pa.int64()),
        "reason": pa.array([entry.reason for entry in entries], pa.string()),
        "version": pa.array([version] * len(entries), pa.int64()),
        "received": pa.array([entry.received for entry in entries], pa.string()),
        "delivery": pa.array([entry.delivery for entry in entries], pa.string()),
        "row": pa.array([entry.row for entry in entries], pa.int64()),
    }
    return write_table(root, "requests/batch", columns)
