"""Compiled loops over rows: one pass each, with nothing but arrays over ids or over one bucket beside them."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_COMPILE: dict[str, Any] = {"cache": True, "nogil": True}
Codes = NDArray[np.int32]
Words = NDArray[np.uint64]


@njit(**_COMPILE)
def _mixed(value: np.uint64) -> np.uint64:
    """A number's bits, mixed (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(**_COMPILE)
def buckets_of_numbers(numbers: NDArray[np.int64], n_buckets: int) -> Codes:
    """A bucket (n,) for each number, the same for equal ones."""
    result = np.empty(len(numbers), np.int32)
    for row in range(len(numbers)):
        result[row] = _mixed(np.uint64(numbers[row])) % np.uint64(n_buckets)
    return result


@njit(**_COMPILE)
def buckets_of_texts(offsets: NDArray[np.int64], data: NDArray[np.uint8], n_buckets: int) -> Codes:
    """A bucket (n,) for each text, the same for equal ones (FNV-1a); ``offsets`` (n + 1,) say where each begins."""
    result = np.empty(len(offsets) - 1, np.int32)
    for row in range(len(result)):
        hashed = np.uint64(0xCBF29CE484222325)
        for place in range(offsets[row], offsets[row + 1]):
            hashed = (hashed ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
        result[row] = _mixed(hashed) % np.uint64(n_buckets)
    return result


@njit(**_COMPILE)
def buckets_of_pairs(users: Codes, items: Codes, n_buckets: int) -> Codes:
    """A bucket (n,) for each pair, the same for equal ones."""
    result = np.empty(len(users), np.int32)
    for row in range(len(users)):
        pair = (np.uint64(users[row]) << np.uint64(32)) | np.uint64(items[row])
        result[row] = _mixed(pair) % np.uint64(n_buckets)
    return result


@njit(**_COMPILE)
def mark_last(users: Codes, items: Codes, times: NDArray[np.float64], slots: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mask (n,) of each pair's last row: by time, among equals the last in order.

    Args:
        users: (n,).
        items: (n,).
        times: (n,), or (0,) where rows have no time.
        slots: A hash table of positions, all -1; its length is a power of 2 greater than n.
    """
    is_last = np.zeros(len(users), np.bool_)
    for row in range(len(users)):
        pair = (np.uint64(users[row]) << np.uint64(32)) | np.uint64(items[row])
        slot = np.int64(_mixed(pair) & np.uint64(len(slots) - 1))
        found = slots[slot]
        while found >= 0 and (users[found] != users[row] or items[found] != items[row]):
            slot = (slot + 1) & (len(slots) - 1)
            found = slots[slot]
        if found < 0 or len(times) == 0 or times[row] >= times[found]:
            if found >= 0:
                is_last[found] = False
            is_last[row] = True
            slots[slot] = row
    return is_last


@njit(**_COMPILE)
def count_into(codes: Codes, counts: NDArray[np.int64]) -> None:
    """Add the number of rows of each code to ``counts`` (codes,)."""
    for row in range(len(codes)):
        counts[codes[row]] += 1


@njit(**_COMPILE)
def drop_rare(
    users: Codes,
    items: Codes,
    alive: NDArray[np.bool_],
    user_counts: NDArray[np.int64],
    item_counts: NDArray[np.int64],
    least: int,
) -> int:
    """Drop the rows whose user or item has fewer than ``least`` by now, and count less of both; returns how many."""
    dropped = 0
    for row in range(len(users)):
        if alive[row] and (user_counts[users[row]] < least or item_counts[items[row]] < least):
            alive[row] = False
            user_counts[users[row]] -= 1
            item_counts[items[row]] -= 1
            dropped += 1
    return dropped


@njit(**_COMPILE)
def set_bits(positions: NDArray[np.int64], words: Words) -> None:
    """Set bits of ``words``, the first being the lowest of the first word."""
    for row in range(len(positions)):
        words[positions[row] >> 6] |= np.uint64(1) << np.uint64(positions[row] & 63)


@njit(**_COMPILE)
def _ones(word: np.uint64) -> np.int64:
    """How many bits of a word are set (in pairs, in fours, in bytes, then added up)."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(**_COMPILE)
def ranks_of(positions: NDArray[np.int64], words: Words, before: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bits are set before each position (n,); ``before`` counts those before each word."""
    result = np.empty(len(positions), np.int64)
    for row in range(len(positions)):
        word = positions[row] >> 6
        below = (np.uint64(1) << np.uint64(positions[row] & 63)) - np.uint64(1)
        result[row] = before[word] + _ones(words[word] & below)
    return result


@njit(**_COMPILE)
def invert(permutation: NDArray[np.signedinteger], inverse: NDArray[np.signedinteger]) -> None:
    """Fill the inverse of a permutation (n,)."""
    for place in range(len(permutation)):
        inverse[permutation[place]] = place
