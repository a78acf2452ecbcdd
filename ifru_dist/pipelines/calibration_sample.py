"""The training pairs that a calibration unlearns: a seeded sample, without those that are to be erased in earnest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.requests import Request
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class CalibrationSample:
    """A sample of the training data, and what is left without it."""

    examples: NDArray[np.int64]
    """Ids, ascending. All examples of a pair are in, or none."""
    sampled: Interactions
    """The examples themselves."""
    kept: Interactions
    """The training data without them."""
    excluded: int
    """Training interactions that had to stay out of the sample."""


def draw_sample(version: Version, share: float, most: int, seed: int, exclude: Sequence[Request]) -> CalibrationSample:
    """Draw distinct pairs of the training data, each as likely as any other.

    Args:
        version: Where the data lie.
        share: Of the distinct training pairs.
        most: Pairs at most.
        seed: Of the draw.
        exclude: Requests whose pairs stay out; what they name and the workspace does not know excludes nothing.

    Raises:
        InputError: no pair may be drawn, or none would be left to train on.
    """
    train = version.trained()
    assert train.ids is not None
    keys = _keys(version, train.rows[:, 0], train.rows[:, 1])
    excluded = _excluded(version, train, keys, exclude)
    allowed, pairs = np.unique(keys[~excluded]), len(np.unique(keys))
    count = min(most, len(allowed), max(1, round(share * pairs)))
    if count == 0 or count == pairs:
        raise InputError(
            f"calibration has nothing to sample or nothing to train on: {pairs} training pairs, {len(allowed)} of them "
            "not excluded: give a workspace with more, a smaller --share, or fewer requests in --exclude"
        )
    chosen = np.isin(keys, np.random.default_rng(seed).choice(allowed, count, replace=False))
    return CalibrationSample(
        examples=train.ids[chosen], sampled=train.take(chosen), kept=train.take(~chosen), excluded=int(excluded.sum())
    )


def _keys(version: Version, user: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number (n,) per pair of global rows; -1 where a row is."""
    return np.where((user >= 0) & (item >= 0), user * version.layout.n_rows + item, -1)


def _excluded(
    version: Version, train: Interactions, keys: NDArray[np.int64], requests: Sequence[Request]
) -> NDArray[np.bool_]:
    """Mask (n,) of the training interactions that requests name."""
    columns = ([request.user for request in requests], [request.item for request in requests])
    user, item = (version.find_rows(table, pa.array(ids, pa.large_string())) for table, ids in enumerate(columns))
    scope = np.array([request.scope for request in requests], dtype=str)
    return (
        np.isin(keys, _keys(version, user, item))
        | np.isin(train.rows[:, 0], user[scope == "user"])
        | np.isin(train.rows[:, 1], item[scope == "item"])
    )
