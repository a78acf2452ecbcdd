"""The coordinator's merge: the workers' updates and the rows that are reset become one set of changed rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.errors import SolveError
from ifru_dist.influence.options import REMEDIES, USABLE
from ifru_dist.influence.outcome import Outcome
from ifru_dist.models.initial import unseen_rows
from ifru_dist.workspace.layout import TABLES
from ifru_dist.workspace.version import Version


def merged_update(
    version: Version, outcomes: Sequence[Outcome], forgotten: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All changed rows (n,), ascending, and their embeddings (n, dim).

    Args:
        version: Before the batch, so that it still knows the ids by which rows are reset.
        outcomes: By rank; none when there was nothing to solve.
        forgotten: Global rows that are reset although they may have had no example to lose.

    Raises:
        SolveError: the solver failed, or an embedding is not finite; such an update must not be committed.
    """
    status = outcomes[0].status if outcomes else "converged"
    if status not in USABLE:
        raise SolveError(f"the solver ended with {status}: {REMEDIES[status]}; nothing was committed")
    emptied = np.unique(np.concatenate([*(outcome.emptied.numpy() for outcome in outcomes), forgotten]))
    rows = np.concatenate([*(outcome.rows.numpy() for outcome in outcomes), emptied])
    order = np.argsort(rows)
    values = _in_order(order, [outcome.values for outcome in outcomes], _reset_values(version, emptied))
    if not np.isfinite(values).all():
        raise SolveError(f"the update is not finite: {REMEDIES['not_finite']}; nothing was committed")
    return rows[order], values


def _in_order(order: NDArray[np.int64], moved: Sequence[Tensor], reset: NDArray[np.float32]) -> NDArray[np.float32]:
    """The workers' values and then those of reset rows, taken in some order (n,): (n, dim), each copied once."""
    place, values, start = np.empty_like(order), np.empty((len(order), reset.shape[1]), np.float32), 0
    place[order] = np.arange(len(order))
    for part in (*(tensor.float().numpy() for tensor in moved), reset):
        values[place[start : start + len(part)]] = part
        start += len(part)
    return values


def _reset_values(version: Version, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What rows (n,) without any example are reset to: what the trainer gives an unseen row, (n, dim)."""
    spec, layout = version.model.spec, version.layout
    parts = [np.empty((0, spec.dim), np.float32)]
    for table, name in enumerate(TABLES):
        local = layout.local(rows[layout.table_of(rows) == table])
        ids = [str(value) for value in version.ids(table).take(local).to_pylist()]
        parts.append(unseen_rows(name, ids, spec.dim, spec.init_std, version.model.seed))
    return np.concatenate(parts)
