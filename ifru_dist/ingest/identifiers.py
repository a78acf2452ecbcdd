"""External ids as the tables of the training part hold them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]*)$"
"""What an int64 prints as: "12", but not "0012" or "+12", which would lose their spelling."""


def training_table(names: pa.Array, codes: NDArray[np.int64], *, from_text: bool) -> tuple[pa.Array, NDArray[np.int64]]:
    """The ids that occur in the training part, sorted, and their codes in that order.

    Args:
        names: The ids (n,), each once.
        codes: Of each id (n,).
        from_text: The ids were read from CSV: where all of them are canonical integers they become int64.
    """
    if from_text:
        names = integers_if_canonical(names)
    order = pc.array_sort_indices(names)
    return names.take(order), codes[order.to_numpy()]


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
