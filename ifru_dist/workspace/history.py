"""What the ledger knows of a request, a user, an item or a pair. It holds keyed digests, so no erased id is needed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ifru_dist.workspace.files import FileEntry, open_arrow
from ifru_dist.workspace.keys import DIGEST_BYTES, keyed_digest
from ifru_dist.workspace.ledger import Scope

_TOLD = ("request_id", "scope", "status", "reason", "interactions", "version", "received", "finished")


@dataclass(frozen=True, kw_only=True)
class LedgerEvent:
    """What became of one request, as the ledger tells it."""

    request_id: str
    scope: str
    status: str
    reason: str
    interactions: int
    version: int
    """The version that its batch made."""
    received: str | None = None
    """UTC time at which it came, ISO 8601; None in ledgers of earlier releases."""
    finished: str | None = None
    """UTC time at which it was done with, where the ledger says so: otherwise when its version was made."""


def wanted_digests(key: bytes, user: str | None, item: str | None) -> set[bytes]:
    """Keyed digests of the requests that concern a user, an item, or a pair of both and whatever would contain it."""
    named: dict[Scope, bool] = {
        "user": user is not None,
        "item": item is not None,
        "interaction": user is not None and item is not None,
    }
    content = {"user": (user, None), "item": (None, item), "interaction": (user, item)}
    return {keyed_digest(key, scope, *content[scope]) for scope, is_named in named.items() if is_named}


def find_events(
    root: Path,
    files: Sequence[FileEntry],
    *,
    request_id: str | None = None,
    digests: Collection[bytes] | None = None,
) -> list[LedgerEvent]:
    """The entries of ledger files, in their order, with some request id and one of some digests (None: any)."""
    events = []
    for entry in files:
        table = open_arrow(root, entry).read_all()
        if request_id is not None:
            table = table.filter(pc.equal(table.column("request_id"), request_id))
        if digests is not None:
            wanted = pa.array(sorted(digests), pa.binary(DIGEST_BYTES))
            table = table.filter(pc.is_in(table.column("digest"), value_set=wanted))
        told = [name for name in _TOLD if name in table.column_names]
        events += [LedgerEvent(**row) for row in table.select(told).to_pylist()]
    return events
