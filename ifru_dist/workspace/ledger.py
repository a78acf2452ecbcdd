"""The request ledger: what was asked and became of it, beside digests of all that was erased."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_table
from ifru_dist.workspace.keys import DIGEST_BYTES, keyed_digest
from ifru_dist.workspace.suppression import read_suppressed

Status = Literal["applied", "duplicate", "not_found", "rejected"]
Scope = Literal["interaction", "user", "item"]


class LedgerEntry(NamedTuple):
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
    """All requests of a version and all that was erased and not released again, as keyed digests."""

    requests: dict[tuple[str, bytes], int | None]
    """Request id and content digest of every request -> the version that it was applied in last; None for others."""
    suppressed: set[bytes]

    def add(self, entries: Sequence[LedgerEntry], suppressed: Sequence[bytes], version: int) -> None:
        """Go on with what a batch added as a version."""
        self.note((entry.request_id, entry.digest, entry.status, version) for entry in entries)
        self.suppressed.update(suppressed)

    def lacks(self, entries: Sequence[LedgerEntry]) -> bool:
        """Whether a request is none that was settled before: one with the same id and content is the same request."""
        return any((entry.request_id, entry.digest) not in self.requests for entry in entries)

    def applied(self, request_id: str, digest: bytes) -> int | None:
        """The version that a request was applied in; None where it was not."""
        return self.requests.get((request_id, digest))

    def settled(self, entry: LedgerEntry) -> Settled:
        """What became of the request of an entry."""
        return Settled(
            request_id=entry.request_id,
            scope=entry.scope,
            status=entry.status,
            interactions=entry.interactions,
            reason=entry.reason,
            version=self.applied(entry.request_id, entry.digest),
        )

    def was_erased(self, key: bytes, scope: Scope, user: str | None, item: str | None) -> bool:
        """Whether what a request names was erased before, by itself or with its whole user or item."""
        wider = [("user", user, None), ("item", None, item)] if scope == "interaction" else []
        return any(keyed_digest(key, *what) in self.suppressed for what in [(scope, user, item), *wider])

    def note(self, settled: Iterable[tuple[str, bytes, str, int]]) -> None:
        """Note id, digest, status and version of requests; one that was applied stays so when it comes again."""
        for request_id, digest, status, version in settled:
            if status == "applied":
                self.requests[request_id, digest] = version
            else:
                self.requests.setdefault((request_id, digest))


def read_ledger(
    root: Path, requests: Sequence[FileEntry], suppression: Sequence[FileEntry], released: Sequence[FileEntry] = ()
) -> Ledger:
    """Read the ledger and suppression files of a version, and those of what it has released."""
    ledger = Ledger({}, read_suppressed(root, suppression, released))
    for entry in requests:
        table = open_arrow(root, entry).read_all()
        columns = [table.column(name).to_pylist() for name in ("request_id", "digest", "status", "version")]
        ledger.note(zip(*columns, strict=True))
    return ledger


def read_deliveries(
    root: Path, requests: Sequence[FileEntry], deliveries: Sequence[str], ledger: Ledger
) -> dict[tuple[str, int], Settled]:
    """What became of the requests of some deliveries that are in a version, by delivery and row.

    Not the rejected ones: who puts a rejected file in again asks again.
    """
    found: dict[tuple[str, int], Settled] = {}
    wanted = pa.array(deliveries, pa.string())
    for file in requests:
        table = open_arrow(root, file).read_all()
        if "delivery" not in table.column_names:  # of an earlier release
            continue
        settled = pc.not_equal(table.column("status"), "rejected")
        table = table.filter(pc.and_(settled, pc.is_in(table.column("delivery"), value_set=wanted)))
        entries = (LedgerEntry(**row) for row in table.select(LedgerEntry._fields).to_pylist())
        found.update({(entry.delivery, entry.row): ledger.settled(entry) for entry in entries})
    return found


_TYPES = {
    "request_id": pa.string(),
    "scope": pa.string(),
    "digest": pa.binary(DIGEST_BYTES),
    "status": pa.string(),
    "interactions": pa.int64(),
    "reason": pa.string(),
    "received": pa.string(),
    "delivery": pa.string(),
    "row": pa.int64(),
}


def write_requests(root: Path | Staging, entries: Sequence[LedgerEntry], version: int) -> FileEntry:
    """Write the entries of one batch, in the order of the requests; the version says when it was finished."""
    by_field = zip(*entries, strict=True) if entries else ([],) * len(LedgerEntry._fields)
    columns = {name: pa.array(values, _TYPES[name]) for name, values in zip(LedgerEntry._fields, by_field, strict=True)}
    columns["version"] = pa.array([version] * len(entries), pa.int64())
    return write_table(root, "requests/batch", columns)
