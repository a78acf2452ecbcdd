"""From requests to examples: resolve ids, know what was erased before, count what each request erases."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.pipelines.requests import Request
from ifru_dist.sharding.worker import Found, Targets
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import Ledger, LedgerEntry, Status
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class Routed:
    """A batch that is ready to be solved."""

    examples: NDArray[np.int64]
    """Ids of the examples to erase, ascending."""
    pairs: NDArray[np.int64]
    """(examples, 2) their global rows."""
    entries: list[LedgerEntry]
    """One entry per request, in the order of the file."""
    suppressed: list[bytes]
    """Keyed digests of what the applied requests name."""

    def counts(self) -> dict[str, int]:
        """Requests by status."""
        by_status = Counter(entry.status for entry in self.entries)
        statuses: tuple[Status, ...] = ("applied", "duplicate", "not_found", "rejected")
        return {"received": len(self.entries), **{status: by_status[status] for status in statuses}}


class Router:
    """Resolves the requests of one batch against one version."""

    def __init__(self, version: Version, ledger: Ledger, key: bytes, requests: Sequence[Request]) -> None:
        """Compute the requests' digests and the rows they name."""
        self._requests, self._ledger, self._key = requests, ledger, key
        self._digests = [keyed_digest(key, request.scope, request.user, request.item) for request in requests]
        epoch = version.manifest.epoch
        self._ids = [
            request.request_id or keyed_digest(key, "request", epoch, digest.hex()).hex()[:32]
            for request, digest in zip(requests, self._digests, strict=True)
        ]
        self._refused = self._refusals()
        self.targets = self._targets(version)

    @property
    def settled(self) -> bool:
        """Whether no request names a row that could hold something to erase."""
        return bool((self.targets.user < 0).all() and (self.targets.item < 0).all())

    def route(self, found: Sequence[Found]) -> Routed:
        """Put together what the workers found."""
        request = np.concatenate([np.empty(0, np.int64), *(part.request for part in found)])
        example = np.concatenate([np.empty(0, np.int64), *(part.example for part in found)])
        pairs = np.concatenate([np.empty((0, 2), np.int64), *(part.pairs for part in found)])
        counts = np.bincount(request, minlength=len(self._requests))
        entries = [self._entry(position, int(count)) for position, count in enumerate(counts)]
        examples, first = np.unique(example, return_index=True)
        applied = [position for position, entry in enumerate(entries) if entry.status == "applied"]
        return Routed(
            examples=examples,
            pairs=pairs[first],
            entries=entries,
            suppressed=sorted({self._digests[position] for position in applied}),
        )

    def _refusals(self) -> dict[int, tuple[Status, str]]:
        """Requests that are settled before any lookup: asked before, asked twice, or an id used for two things."""
        refused: dict[int, tuple[Status, str]] = {}
        seen: dict[str, bytes] = dict(self._ledger.digest_of)
        contents: set[bytes] = set()
        for position, (request_id, digest) in enumerate(zip(self._ids, self._digests, strict=True)):
            known = seen.setdefault(request_id, digest)
            if known != digest:
                refused[position] = ("rejected", "its request_id was used before for something else")
                continue  # the same deletion under an id of its own is still to be done
            if request_id in self._ledger.digest_of:
                refused[position] = ("duplicate", "a request with this id was applied before")
            elif digest in contents:
                refused[position] = ("duplicate", "the same deletion stands earlier in the file")
            contents.add(digest)
        return refused

    def _targets(self, version: Version) -> Targets:
        """The rows that the open requests name, -1 where nothing is named or the id is unknown."""
        users = pa.array([request.user for request in self._requests], pa.large_string())
        items = pa.array([request.item for request in self._requests], pa.large_string())
        user, item = version.find_rows(0, users), version.find_rows(1, items)
        unknown = np.zeros(len(self._requests), dtype=bool)
        for position, request in enumerate(self._requests):
            unknown[position] = (
                position in self._refused
                or (request.user is not None and user[position] < 0)
                or (request.item is not None and item[position] < 0)
            )
        self._unknown = unknown
        return Targets(user=np.where(unknown, -1, user), item=np.where(unknown, -1, item))

    def _entry(self, position: int, interactions: int) -> LedgerEntry:
        """What becomes of one request, given how many examples were found for it."""
        status, reason = self._outcome(position, interactions)
        return LedgerEntry(
            request_id=self._ids[position],
            scope=self._requests[position].scope,
            digest=self._digests[position],
            status=status,
            interactions=interactions,
            reason=reason,
        )

    def _outcome(self, position: int, interactions: int) -> tuple[Status, str]:
        """Status and reason of one request."""
        if position in self._refused:
            return self._refused[position]
        if interactions > 0:
            return "applied", ""
        request = self._requests[position]
        if self._ledger.was_erased(self._key, request.scope, request.user, request.item):
            return "duplicate", "this was erased before"
        if self._unknown[position]:
            return "not_found", "its user or item has no training data"
        return "not_found", "no training interaction matches"
