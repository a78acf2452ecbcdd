"""Which rows go where: one row for each pair, then training, validation and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifru_dist.ingest.loops import invert, mark_last, ranks_of
from ifru_dist.ingest.spilling import mapped

_AT_ONCE = 1 << 20


def last_of_pairs(
    users: NDArray[np.int32], items: NDArray[np.int32], times: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Positions (m,), ascending, of each pair's last row: by time where known, among equals the last in order.

    Args:
        users: Code of each row's user (n,).
        items: Code of each row's item (n,).
        times: (n,), or None where rows have no time.
    """
    slots = np.full(1 << (2 * len(users)).bit_length(), -1, dtype=np.int64)
    return np.flatnonzero(mark_last(users, items, np.empty(0) if times is None else times, slots))


def part_ends(n_rows: int, shares: Sequence[float]) -> tuple[int, int, int]:
    """Where training, validation and test rows end among all rows in shuffled order."""
    # Rounding first: 0.7 + 0.1 of 10 rows is 7.999999999999999 in binary.
    train, valid = (floor(round(n_rows * sum(shares[:part]), 6)) for part in (1, 2))
    return train, valid, n_rows


def write_shuffle(path: Path, n_rows: int, seed: int) -> None:
    """Write the place of each row (n_rows,) in a permutation by ``numpy.random.RandomState(seed)``.

    The permutation and its inverse are memory maps of files, so that the system may take the memory back: 4 bytes a
    row each.
    """
    dtype = np.int32 if n_rows < 2**31 else np.int64
    aside = path.with_name(f"{path.name}.order")
    order, places = (
        np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(n_rows,)).view(np.ndarray)
        for file in (aside, path)
    )
    for start in range(0, n_rows, _AT_ONCE):
        stop = min(start + _AT_ONCE, n_rows)
        order[start:stop] = np.arange(start, stop, dtype=dtype)
    np.random.RandomState(seed).shuffle(order)  # draws what permutation(n_rows) draws
    invert(order, places)
    aside.unlink()


@dataclass(frozen=True)
class Places:
    """The place of each row that is left: those of training come first, then validation, then test."""

    left: Path
    """Bits (words,) of the positions of the rows that are left, in uint64."""
    before: Path
    """(words,): bits that are set before each word."""
    shuffle: Path | None
    """Place of each row that is left (rows,); None: they keep their order."""
    ends: tuple[int, int, int]
    """Where each part ends."""

    def of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places (n,) of rows by their position in the logs."""
        rank = ranks_of(positions, mapped(self.left), mapped(self.before))
        return rank if self.shuffle is None else mapped(self.shuffle)[rank].astype(np.int64)


@dataclass(frozen=True)
class Spans:
    """All places cut into spans of about one size, each within one part."""

    edges: NDArray[np.int64]
    """(spans + 1,)."""
    parts: tuple[range, range, range]
    """Of each part its spans."""

    @classmethod
    def of(cls, ends: tuple[int, int, int], span_rows: int) -> "Spans":
        """Spans of so many places at most."""
        edges, parts = [0], []
        for start, end in pairwise((0, *ends)):
            first = len(edges) - 1
            edges += [*range(start + span_rows, end, span_rows), end] if end > start else []
            parts.append(range(first, len(edges) - 1))
        return cls(np.array(edges), (parts[0], parts[1], parts[2]))

    def __len__(self) -> int:
        """Number of spans."""
        return len(self.edges) - 1

    def holding(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The span (n,) that holds each place."""
        return np.searchsorted(self.edges, places, side="right") - 1

    def bounds(self, span: int) -> tuple[int, int]:
        """Its first place, and the one after its last."""
        return int(self.edges[span]), int(self.edges[span + 1])
