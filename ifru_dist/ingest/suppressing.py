"""Leaving out the rows of logs that name what was erased before: a warehouse still holds it.

A row counts under the first of user, item and interaction that holds for it. These tasks hold the list's key, so they
run in the job's own process only.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifru_dist.ingest.spilling import mapped
from ifru_dist.ingest.vocabulary import Vocabulary
from ifru_dist.workspace.suppression import SuppressionList

SCOPES = ("user", "item", "interaction")


def suppressed_ids(vocabulary: Vocabulary, table: int, bucket: int, listed: SuppressionList) -> NDArray[np.bool_]:
    """Mask (n,) of the users (table 0) or items (table 1) in a bucket of the vocabulary that are on the list."""
    holds = (listed.holds_users, listed.holds_items)[table]
    return holds(vocabulary.ids(bucket).cast("large_string").to_pylist())


def suppressed_rows(
    codes: Sequence[NDArray[np.int32]], masks: Sequence[Path]
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Mask (n,) of the rows whose user or item is on the list, and how many there are for either.

    Args:
        codes: Of users and of items (n,).
        masks: Files of the masks (ids,) of users and of items.
    """
    by_user, by_item = (mapped(path)[column] for path, column in zip(masks, codes, strict=True))
    by_item &= ~by_user
    return by_user | by_item, {"user": int(by_user.sum()), "item": int(by_item.sum())}


def suppressed_pairs(
    users: NDArray[np.int32], items: NDArray[np.int32], vocabularies: Sequence[Vocabulary], listed: SuppressionList
) -> NDArray[np.bool_]:
    """Mask (n,) of the rows whose pair is on the list; each distinct user, item and pair is looked up once."""
    distinct, texts = [], []
    for codes, vocabulary in zip((users, items), vocabularies, strict=False):
        used, numbers = np.unique(codes, return_inverse=True)
        texts.append(vocabulary.take(used).cast("large_string").to_pylist())
        distinct.append(numbers.astype(np.int64))
    keys, number = np.unique(distinct[0] * len(texts[1]) + distinct[1], return_inverse=True)
    return listed.holds_pairs(texts[0], texts[1], np.stack(np.divmod(keys, len(texts[1])), axis=1))[number]
