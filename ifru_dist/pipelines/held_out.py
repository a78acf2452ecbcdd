"""The held-out pairs that a batch erases: those that requests name, and those of rows that are forgotten."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ifru_dist.sharding.worker import Targets
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


def held_out_erasure(version: Version, targets: Targets, forgotten: NDArray[np.int64]) -> HeldOutErasure:
    """Look up the held-out pairs that are left.

    Args:
        version: Where they lie.
        targets: What the open requests name; those that name a user and an item are looked up.
        forgotten: Global rows whose pairs go, too.
    """
    size = version.layout.n_rows
    keys = np.where((targets.user >= 0) & (targets.item >= 0), targets.user * size + targets.item, -1)
    positions, rows, hit = {}, [], []
    for part in HELD_OUT:
        stored, pairs = version.held_out_left(part)
        held = pairs.rows[:, :2] @ np.array([size, 1])
        match = pc.is_in(pa.array(held), value_set=pa.array(keys)).to_numpy(zero_copy_only=False)  # by hash: no sort
        positions[part] = stored[match]
        rows.append(pairs.rows[match | np.isin(pairs.rows, forgotten).any(axis=1)])
        hit.append(held[match])
    return HeldOutErasure(named=np.isin(keys, np.concatenate(hit)), positions=positions, rows=np.concatenate(rows))
