"""External ids and their codes: one code space over all fragments, then the tables of the training part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]*)$"
"""What an int64 prints as: "12", but not "0012" or "+12", which would lose their spelling."""


@dataclass(frozen=True)
class CodedIds:
    """An id column as codes."""

    codes: NDArray[np.int32]
    """(rows,), positions in ``ids``."""
    ids: pa.Array
    """(distinct ids,), int64 or large_string, in order of first appearance."""


def unify(chunks: Sequence[pa.ChunkedArray]) -> CodedIds:
    """Bring dictionary-encoded id columns, in file order, to one code space."""
    arrays = [chunk for column in chunks for chunk in column.chunks]
    unified = pa.chunked_array(arrays).unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in unified.chunks])
    return CodedIds(codes, unified.chunk(0).dictionary)


def training_table(
    ids: pa.Array, train_codes: NDArray[np.int32], *, from_text: bool
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The ids that occur in the training part, sorted, and the row that each code has in them.

    Args:
        ids: Distinct ids (codes,).
        train_codes: Codes of the training rows (n,).
        from_text: The ids were read from CSV: where all of them are canonical integers they become int64.

    Returns:
        Ids in row order, and the row of each code (codes,), -1 for ids without training rows.
    """
    used = np.flatnonzero(np.bincount(train_codes, minlength=len(ids)))
    names = ids.take(pa.array(used))
    if from_text:
        names = integers_if_canonical(names)
    order = pc.array_sort_indices(names).to_numpy().astype(np.int64)
    row_of_code = np.full(len(ids), -1, dtype=np.int64)
    row_of_code[used[order]] = np.arange(len(used))
    return names.take(pa.array(order)), row_of_code


def written_as_floats(ids: pa.Array) -> bool:
    """Whether text ids look like integers that were written as floats: each is "12" or "12.0", and some have the .0."""
    if pa.types.is_integer(ids.type) or not pc.any(pc.ends_with(ids, ".0"), min_count=0).as_py():
        return False
    whole = pc.replace_substring_regex(ids, r"\.0$", "")
    return bool(pc.all(pc.match_substring_regex(whole, CANONICAL_INTEGER)).as_py())


def integers_if_canonical(ids: pa.Array) -> pa.Array:
    """Text ids as int64 where every one of them is the text of an int64, else unchanged."""
    if not pc.all(pc.match_substring_regex(ids, CANONICAL_INTEGER), min_count=0).as_py():
        return ids
    try:
        return ids.cast(pa.int64())
    except pa.ArrowInvalid:  # an integer beyond 64 bits
        return ids
