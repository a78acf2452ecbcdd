"""The preparation again, eagerly in pandas and sharing no code with the package: the reference for its tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class EagerResult:
    """Tuples (user id, item id, further ids, label) of each part in order, and the counts."""

    parts: dict[str, list[tuple[Any, ...]]]
    counts: dict[str, int]


def usable(logs: pd.DataFrame, ids: Sequence[str] = ("user", "item")) -> pd.Series:
    """Mask of the rows that have everything they need."""

    def has_id(value: Any) -> bool:
        return not pd.isna(value) and str(value).strip() != ""

    mask = np.isfinite(logs["rating"].astype(float))
    for name in ids:
        mask &= logs[name].map(has_id)
    return mask


def prepare_eagerly(
    logs: pd.DataFrame,
    threshold: float,
    k: int,
    split: tuple[float, float, float],
    seed: int,
    fields: Sequence[str] = (),
) -> EagerResult:
    """Logs in file order (user, item, further fields, rating and optionally timestamp) to parts."""
    ids = ["user", "item", *fields]
    rows = logs[usable(logs, ids)].reset_index(drop=True)
    n_usable = len(rows)
    if "timestamp" in rows:
        rows = rows.sort_values("timestamp", kind="stable")
    rows = rows.drop_duplicates(["user", "item"], keep="last").sort_index()
    counts = {"quarantined": len(logs) - n_usable, "duplicates": n_usable - len(rows)}
    while len(rows):
        sizes = [rows.groupby(name)[name].transform("size") for name in ("user", "item")]
        kept = rows[(sizes[0] >= k) & (sizes[1] >= k)]
        if len(kept) == len(rows):
            break
        rows = kept
    counts["rows_after_k_core"] = len(rows)
    rows = rows.iloc[np.random.RandomState(seed).permutation(len(rows))]
    shares = [Fraction(str(share)) for share in split]
    first, second = floor(len(rows) * shares[0]), floor(len(rows) * (shares[0] + shares[1]))
    train, valid, test = rows.iloc[:first], rows.iloc[first:second], rows.iloc[second:]
    held_out = {
        name: part[np.all([part[column].isin(set(train[column])) for column in ids], axis=0)]
        for name, part in (("valid", valid), ("test", test))
    }
    counts["dropped_unseen"] = len(valid) + len(test) - sum(len(part) for part in held_out.values())
    parts = {name: _tuples(part, ids, threshold) for name, part in {"train": train, **held_out}.items()}
    return EagerResult(parts, counts)


def _tuples(part: pd.DataFrame, ids: Sequence[str], threshold: float) -> list[tuple[Any, ...]]:
    labels = (part["rating"].astype(float) > threshold).astype(int)
    return list(zip(*(part[name] for name in ids), labels, strict=True))
