"""Leaving out the rows of logs that name what was erased before: a warehouse still holds it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifru_dist.ingest.identifiers import CodedIds
from ifru_dist.ingest.reading import Rows
from ifru_dist.workspace.suppression import SuppressionList


@dataclass(frozen=True)
class LeftOut:
    """The rows that are suppressed."""

    rows: NDArray[np.bool_]
    """Mask (rows,)."""
    counts: dict[str, int]
    """Rows by scope: user, item or interaction; a row counts under the first of these that holds for it."""


def suppressed_rows(rows: Rows, listed: SuppressionList) -> LeftOut:
    """Find the rows whose user, item or pair is on the list; each distinct one is looked up once."""
    texts = [_texts(ids) for ids in (rows.users, rows.items)]
    by_user = listed.holds_users(texts[0])[rows.users.codes]
    by_item = listed.holds_items(texts[1])[rows.items.codes] & ~by_user
    by_pair = _named_pairs(rows, np.flatnonzero(~(by_user | by_item)), texts, listed)
    masks = {"user": by_user, "item": by_item, "interaction": by_pair}
    return LeftOut(by_user | by_item | by_pair, {scope: int(mask.sum()) for scope, mask in masks.items()})


def _named_pairs(
    rows: Rows, left: NDArray[np.int64], texts: list[list[str]], listed: SuppressionList
) -> NDArray[np.bool_]:
    """Mask (rows,) of the rows, among some (positions), whose pair is on the list."""
    n_items = len(texts[1])
    keys = rows.users.codes[left].astype(np.int64) * n_items + rows.items.codes[left]
    distinct, number = np.unique(keys, return_inverse=True)
    held = listed.holds_pairs(texts[0], texts[1], np.stack(np.divmod(distinct, n_items), axis=1))
    mask = np.zeros(len(rows), dtype=bool)
    mask[left] = held[number]
    return mask


def _texts(ids: CodedIds) -> list[str]:
    """Distinct ids as requests write them."""
    return ids.ids.cast("large_string").to_pylist()
