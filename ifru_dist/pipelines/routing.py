"""From requests to examples: resolve ids, know what was erased before, count what each request erases."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ifru_dist.pipelines.held_out import HeldOutErasure, HeldOutLookup
from ifru_dist.pipelines.requests import Request
from ifru_dist.sharding.worker import Found, Targets
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import Ledger, LedgerEntry, Status
from ifru_dist.workspace.lookup import IdLookup
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class Routed:
    """A batch that is ready to be solved."""

    examples: NDArray[np.int64]
    """Ids of the examples to erase, ascending."""
    rows: NDArray[np.int64]
    """(examples, fields) their global rows."""
    forgotten: NDArray[np.int64]
    """Global rows, ascending, of the users and items that go wholly: their embeddings, ids and held-out pairs."""
    held_out: HeldOutErasure
    """Validation and test pairs that go."""
    users: NDArray[np.int64]
    """Rows, ascending, of all users who lose something: training interactions, held-out pairs or their whole row."""
    entries: list[LedgerEntry]
    """One entry per request, in the order of the file."""
    suppressed: list[bytes]
    """Keyed digests of what the applied requests name."""

    @property
    def erases(self) -> bool:
        """Whether anything is left to be erased."""
        return len(self.examples) + len(self.forgotten) + len(self.held_out.rows) > 0

    def counts(self) -> dict[str, int]:
        """Requests by status."""
        by_status = Counter(entry.status for entry in self.entries)
        statuses: tuple[Status, ...] = ("applied", "duplicate", "not_found", "rejected")
        return {"received": len(self.entries), **{status: by_status[status] for status in statuses}}


@dataclass(frozen=True)
class Lookups:
    """What routers of one workspace keep from batch to batch."""

    ids: IdLookup = field(default_factory=IdLookup)
    held_out: HeldOutLookup = field(default_factory=HeldOutLookup)


class Router:
    """Resolves the requests of one batch against one version."""

    def __init__(
        self,
        version: Version,
        ledger: Ledger,
        key: bytes,
        requests: Sequence[Request],
        lookups: Lookups | None = None,
    ) -> None:
        """Compute the requests' digests and the rows they name; by look-ups of earlier batches, where there are any."""
        self._version, self._lookups = version, lookups or Lookups()
        self._requests, self._ledger, self._key = requests, ledger, key
        self._digests = [keyed_digest(key, request.scope, request.user, request.item) for request in requests]
        epoch = version.manifest.epoch
        self._ids = [
            request.request_id or f"{epoch}-{digest.hex()[:32]}"
            for request, digest in zip(requests, self._digests, strict=True)
        ]
        self._repeated = self._repeats()
        self.targets = self._targets(version)
        # An open request with one end names a whole user or item, which is known.
        self._whole = (self.targets.user >= 0) != (self.targets.item >= 0)

    @property
    def settled(self) -> bool:
        """Whether no request names a row that could hold something to erase."""
        return bool((self.targets.user < 0).all() and (self.targets.item < 0).all())

    def route(self, found: Sequence[Found]) -> Routed:
        """Put together what the workers found."""
        request = np.concatenate([np.empty(0, np.int64), *(part.request for part in found)])
        example = np.concatenate([np.empty(0, np.int64), *(part.example for part in found)])
        rows = np.concatenate([self._no_rows, *(part.rows for part in found)])
        counts = np.bincount(request, minlength=len(self._requests))
        something = ((counts > 0) | self._whole | self._held_out.named).tolist()
        outcomes = (self._outcome(position, something) for position in range(len(self._requests)))
        entries = [
            self._settled(position, status, interactions, reason)
            for position, ((status, reason), interactions) in enumerate(zip(outcomes, counts.tolist(), strict=True))
        ]
        examples, first = np.unique(example, return_index=True)
        applied = [position for position, entry in enumerate(entries) if entry.status == "applied"]
        return Routed(
            examples=examples,
            rows=rows[first],
            forgotten=self._forgotten,
            held_out=self._held_out,
            users=np.unique(np.concatenate([rows[:, 0], self._held_out.rows[:, 0], self._forgotten_users])),
            entries=entries,
            suppressed=sorted({self._digests[position] for position in applied}),
        )

    def rejected(self, reason: str) -> Routed:
        """The batch without anything to erase, every request of it rejected."""
        nothing = np.empty(0, np.int64)
        return Routed(
            examples=nothing,
            rows=self._no_rows,
            forgotten=nothing,
            held_out=HeldOutErasure(
                named=np.zeros(len(self._requests), dtype=bool),
                positions={},
                rows=self._no_rows,
            ),
            users=nothing,
            entries=[self._settled(position, "rejected", 0, reason) for position in range(len(self._requests))],
            suppressed=[],
        )

    @property
    def _no_rows(self) -> NDArray[np.int64]:
        """Global rows (0, fields) of no example."""
        return np.empty((0, len(self._version.layout.tables)), np.int64)

    @cached_property
    def _forgotten(self) -> NDArray[np.int64]:
        """Global rows that whole-user and whole-item requests name, ascending."""
        return np.unique(np.maximum(self.targets.user, self.targets.item)[self._whole])

    @property
    def _forgotten_users(self) -> NDArray[np.int64]:
        """Those of the forgotten rows that are users."""
        return self._forgotten[self._version.layout.table_of(self._forgotten) == 0]

    @cached_property
    def _held_out(self) -> HeldOutErasure:
        """The held-out pairs that go; they are looked up once, however often a gang is tried."""
        return self._lookups.held_out.erasure(self._version, self.targets, self._forgotten)

    def _repeats(self) -> dict[int, int]:
        """Requests that say what an earlier one of the file says, with the position of that one."""
        first: dict[bytes, int] = {}
        earlier = {position: first.setdefault(digest, position) for position, digest in enumerate(self._digests)}
        return {position: origin for position, origin in earlier.items() if position != origin}

    @cached_property
    def _applied_before(self) -> set[int]:
        """Requests that were applied in an earlier batch, and what they name was not released since.

        An id may stand for several deletions of one ticket.
        """
        ledger = self._ledger
        known = enumerate(zip(self._ids, self._digests, strict=True))
        return {
            position
            for position, (name, digest) in known
            if digest in ledger.suppressed and ledger.applied(name, digest) is not None
        }

    def _targets(self, version: Version) -> Targets:
        """The rows that the open requests name, -1 where nothing is named or the id is unknown."""
        users, items = [request.user for request in self._requests], [request.item for request in self._requests]
        user, item = (self._lookups.ids.find_rows(version, table, ids) for table, ids in enumerate((users, items)))
        named_user, named_item = (np.array([name is not None for name in ids], dtype=bool) for ids in (users, items))
        unknown = (named_user & (user < 0)) | (named_item & (item < 0))
        unknown[list(self._repeated)] = True
        unknown[list(self._applied_before)] = True
        self._unknown = unknown
        return Targets(user=np.where(unknown, -1, user), item=np.where(unknown, -1, item))

    def _settled(self, position: int, status: Status, interactions: int, reason: str) -> LedgerEntry:
        """The entry of one request."""
        request = self._requests[position]
        return LedgerEntry(
            request_id=self._ids[position],
            scope=request.scope,
            digest=self._digests[position],
            status=status,
            interactions=interactions,
            reason=reason,
            received=request.received,
            delivery=request.delivery,
            row=request.row,
        )

    def _outcome(self, position: int, something: Sequence[bool]) -> tuple[Status, str]:
        """Status and reason of one request, given which of them name something that is there."""
        if position in self._repeated:
            status, reason = self._outcome(self._repeated[position], something)
            return (
                ("duplicate", "the same deletion stands earlier in this batch")
                if status == "applied"
                else (status, reason)
            )
        if position in self._applied_before:
            return "duplicate", "this request was applied before"
        if something[position]:
            return "applied", ""
        request = self._requests[position]
        if self._ledger.was_erased(self._key, request.scope, request.user, request.item):
            return "duplicate", "this, or its whole user or item, was erased before"
        if self._unknown[position]:
            return "not_found", "its user or item has no training data"
        return "not_found", "no interaction matches"
