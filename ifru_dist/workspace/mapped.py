"""Compiled loops over the columns of mapped graph files: int32 other ends, int8 labels, int64 example ids.

Columns are given by their addresses, so that one loop can read many files. The caller sees to it that they stay mapped
and that nothing outside them is asked for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_COMPILE: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_compiled: Any = intrinsic  # what it makes takes fewer arguments than what it is made of
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


def _reader(bits: int) -> Callable[[Any, Any, Any], Any]:
    """What reads one integer of so many bits at an address plus an index, as int64."""

    def read(_context: Any, _address: Any, _index: Any) -> Any:
        number = ir.IntType(bits)

        def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            start = builder.inttoptr(values[0], number.as_pointer())
            value = builder.load(builder.gep(start, [values[1]]), align=bits // 8)
            return value if bits == 64 else builder.sext(value, ir.IntType(64))

        return types.int64(types.int64, types.int64), generate

    return read


_read_int8 = _compiled(_reader(8))
_read_int32 = _compiled(_reader(32))
_read_int64 = _compiled(_reader(64))


@njit(**_COMPILE)
def _is_left(example: int, erased: Flags, bound: int) -> bool:
    """Whether an example is neither erased nor past the bound."""
    return example < bound and not (0 <= example < len(erased) and erased[example])


@njit(**_COMPILE)
def _is_near(edge: int, places: Numbers, offsets: Numbers, near: Flags) -> bool:
    """Whether one of an edge's other ends, whose columns lie at ``places`` (fields,), is near."""
    for field in range(len(offsets)):
        row = _read_int32(places[field], edge) + offsets[field]
        if 0 <= row < len(near) and near[row]:
            return True
    return False


@njit(**_COMPILE)
def count_edges(
    pieces: Numbers,
    starts: Numbers,
    lengths: Numbers,
    whole: Flags,
    places: Numbers,
    offsets: Numbers,
    erased: Flags,
    bound: int,
    chooses: bool,
    near: Flags,
    counts: Numbers,
) -> None:
    """Count the wanted edges of rows (m,), each in a piece, from a start, of a length; see ``MappedIncidence.of``.

    Of ``whole`` rows (m,) all edges are left.
    """
    for row in range(len(pieces)):
        if whole[row] and not chooses:
            counts[row] = lengths[row]
            continue
        found, piece = 0, pieces[row]
        examples = places[piece, offsets.shape[1] + 1]
        for edge in range(starts[row], starts[row] + lengths[row]):
            if whole[row] or _is_left(_read_int64(examples, edge), erased, bound):
                found += not chooses or _is_near(edge, places[piece], offsets[piece], near)
        counts[row] = found


@njit(**_COMPILE)
def read_edges(
    pieces: Numbers,
    starts: Numbers,
    lengths: Numbers,
    whole: Flags,
    places: Numbers,
    offsets: Numbers,
    erased: Flags,
    bound: int,
    chooses: bool,
    near: Flags,
    sizes: Numbers,
    n_examples: int,
    indptr: Numbers,
    others: Numbers,
    label: NDArray[np.float64],
    example: Numbers,
) -> int:
    """Copy the wanted edges of rows (m,) to where ``indptr`` (m + 1,) says, the other ends as global rows.

    Returns:
        How many of them cannot be: their example or one of their other ends is none.
    """
    fields, wrong = offsets.shape[1], 0
    for row in range(len(pieces)):
        at, piece = indptr[row], pieces[row]
        labels, examples, all_of_them = places[piece, fields], places[piece, fields + 1], whole[row]
        for edge in range(starts[row], starts[row] + lengths[row]):
            number = _read_int64(examples, edge)
            if not (all_of_them or _is_left(number, erased, bound)):
                continue
            if chooses and not _is_near(edge, places[piece], offsets[piece], near):
                continue
            is_wrong = number < 0 or number >= n_examples
            for field in range(fields):
                local = _read_int32(places[piece, field], edge)
                others[at, field] = local + offsets[piece, field]
                is_wrong |= local < 0 or local >= sizes[piece, field]
            wrong += is_wrong
            label[at] = _read_int8(labels, edge)
            example[at] = number
            at += 1
    return wrong
