"""The held-out pairs that a batch erases: those that requests name, and those of rows that are forgotten."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.sharding.worker import Targets
from ifru_dist.workspace.files import FileEntry
from ifru_dist.workspace.layout import HELD_OUT
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class HeldOutErasure:
    """What a batch erases of the validation and test pairs."""

    named: NDArray[np.bool_]
    """(requests,): the request names a held-out pair."""
    positions: dict[str, NDArray[np.int64]]
    """Part -> positions in its stored file of the pairs that requests name, ascending."""
    rows: NDArray[np.int64]
    """(erased, fields) global rows of all pairs that go, those of forgotten rows included."""


class HeldOutLookup:
    """Finds held-out pairs batch after batch; what a look-up costs goes with what is asked for.

    The pairs' files are indexed when they are first asked for, and again when they are others.
    """

    def __init__(self) -> None:
        """Without any index yet."""
        self._known: tuple[FileEntry, FileEntry] | None = None
        self._indexes: dict[str, _Index] = {}

    def erasure(self, version: Version, targets: Targets, forgotten: NDArray[np.int64]) -> HeldOutErasure:
        """Look up the held-out pairs that are left.

        Args:
            version: Where they lie.
            targets: What the open requests name; those that name a user and an item are looked up.
            forgotten: Global rows whose pairs go, too.
        """
        files = (version.manifest.valid, version.manifest.test)
        if self._known != files:
            self._known = files
            self._indexes = {part: _Index(version.held_out_stored(part), version.layout.n_rows) for part in HELD_OUT}
        size = version.layout.n_rows
        keys = np.where((targets.user >= 0) & (targets.item >= 0), targets.user * size + targets.item, -1)
        positions, rows, hit = {}, [], []
        for part, index in self._indexes.items():
            named = version.held_out_standing(part, index.rows, index.of_pairs(np.unique(keys)))
            going = version.held_out_standing(part, index.rows, index.of_rows(forgotten))
            positions[part] = named
            rows.append(index.rows[np.union1d(named, going)])
            hit.append(index.keys[named])
        return HeldOutErasure(named=np.isin(keys, np.concatenate(hit)), positions=positions, rows=np.concatenate(rows))


class _Index:
    """The pairs of one stored file, by user and item, and by each of their rows."""

    def __init__(self, rows: NDArray[np.int64], size: int) -> None:
        """Of tuples of global rows (pairs, fields) < size."""
        self.rows, self.keys = rows, rows[:, :2] @ np.array([size, 1])
        self._by_key = _Order(self.keys)
        self._by_field = [_Order(column) for column in rows.T]

    def of_pairs(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions, ascending, of the pairs with some keys."""
        return np.sort(self._by_key.find(keys))

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions, ascending, of the pairs with one of some rows."""
        return np.unique(np.concatenate([order.find(rows) for order in self._by_field]))


class _Order:
    """Numbers in ascending order, and where they were."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self._positions = np.argsort(numbers, kind="stable")
        self._ascending = numbers[self._positions]

    def find(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of all numbers that are among the distinct wanted ones."""
        first, stop = (np.searchsorted(self._ascending, wanted, side) for side in ("left", "right"))
        ranges = [np.arange(a, b) for a, b in zip(first, stop, strict=True) if b > a]
        return self._positions[np.concatenate([np.empty(0, np.int64), *ranges])]
