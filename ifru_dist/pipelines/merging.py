"""The coordinator's merge: the workers' updates and the rows that are reset become one set of changed rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.errors import SolveError
from ifru_dist.influence.options import REMEDIES, USABLE
from ifru_dist.influence.outcome import Outcome
from ifru_dist.models.factory import build_model
from ifru_dist.models.initial import reset_rows
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class MergedUpdate:
    """What a batch changes of a model."""

    rows: NDArray[np.int64]
    """(n,) global rows, ascending."""
    values: NDArray[np.float32]
    """(n, width) their new embeddings."""
    dense: dict[str, NDArray[np.float32]] | None = None
    """All of the model's own parameters; None where they did not move."""


def merged_update(version: Version, outcomes: Sequence[Outcome], forgotten: NDArray[np.int64]) -> MergedUpdate:
    """All changed rows with their embeddings, and the model's own parameters.

    Args:
        version: Before the batch.
        outcomes: By rank; none when there was nothing to solve.
        forgotten: Global rows that are reset although they may have had no example to lose.

    Raises:
        SolveError: the solver failed, or a number is not finite; such an update must not be committed.
    """
    status = outcomes[0].status if outcomes else "converged"
    if status not in USABLE:
        raise SolveError(f"the solver ended with {status}: {REMEDIES[status]}; nothing was committed")
    emptied = np.unique(np.concatenate([*(outcome.emptied.numpy() for outcome in outcomes), forgotten]))
    # A forgotten item may still have been a negative of others, so that the solver moved it; it is reset all the same.
    solved = [_without(outcome.rows, outcome.values, forgotten) for outcome in outcomes]
    rows = np.concatenate([*(part for part, _ in solved), emptied])
    order = np.argsort(rows)
    values = _in_order(order, [part for _, part in solved], _reset_values(version, emptied))
    moved = {name: tensor.float().numpy() for outcome in outcomes for name, tensor in outcome.dense.items()}
    if not all(np.isfinite(numbers).all() for numbers in (values, *moved.values())):
        raise SolveError(f"the update is not finite: {REMEDIES['not_finite']}; nothing was committed")
    return MergedUpdate(rows=rows[order], values=values, dense={**version.dense(), **moved} if moved else None)


def _without(rows: Tensor, values: Tensor, left_out: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
    """Rows (n,) and their values (n, width) but for those of some rows; the same values where none is left out."""
    keep = ~np.isin(rows.numpy(), left_out)
    return (rows.numpy(), values) if keep.all() else (rows.numpy()[keep], values[torch.from_numpy(keep)])


def _in_order(order: NDArray[np.int64], moved: Sequence[Tensor], reset: NDArray[np.float32]) -> NDArray[np.float32]:
    """The workers' values and then those of reset rows, taken in some order (n,): (n, width), each copied once."""
    place, values, start = np.empty_like(order), np.empty((len(order), reset.shape[1]), np.float32), 0
    place[order] = np.arange(len(order))
    for part in (*(tensor.float().numpy() for tensor in moved), reset):
        values[place[start : start + len(part)]] = part
        start += len(part)
    return values


def _reset_values(version: Version, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What rows (n,) without any example are reset to, (n, width): of an id that is erased nothing may stay in it."""
    spec, layout = version.model.spec, version.layout
    width = build_model(spec).width
    parts = [np.empty((0, width), np.float32)]
    for table, name in enumerate(layout.tables):
        local = layout.local(rows[layout.table_of(rows) == table])
        parts.append(reset_rows(name, local.tolist(), width, spec.init_std, version.model.seed))
    return np.concatenate(parts)
