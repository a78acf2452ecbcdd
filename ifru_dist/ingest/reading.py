"""Reading logs by Dask, one task a fragment, into rows of integer codes.

A task turns its fragment into codes at once, so text never piles up: a row costs 9 bytes, 8 more with a timestamp and 4
for each further field, and nothing has to be shuffled between workers.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from dask.base import compute
from dask.delayed import delayed
from dask.diagnostics.progress import ProgressBar
from numpy.typing import NDArray

from ifru_dist.ingest.cleaning import LabelRule, Part, id_columns, read_part
from ifru_dist.ingest.identifiers import CodedIds, unify
from ifru_dist.ingest.sources import Columns, Fragment

Scheduler = str | Callable[..., Any]
"""A scheduler's name or function, as Dask takes it."""


@dataclass(frozen=True)
class Rows:
    """Usable rows of all files, in file order."""

    ids: tuple[CodedIds, ...]
    """Of each table: users, items, then further fields."""
    labels: NDArray[np.int8]
    """(rows,)."""
    times: NDArray[np.float64] | None
    """(rows,), or None where timestamps are not read."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def users(self) -> CodedIds:
        """Users of the rows."""
        return self.ids[0]

    @property
    def items(self) -> CodedIds:
        """Items of the rows."""
        return self.ids[1]


def read_parts(fragments: Sequence[Fragment], columns: Columns, rule: LabelRule, scheduler: Scheduler) -> list[Part]:
    """Read fragments in parallel; the parts come in the order of the fragments.

    Raises:
        InputError: a file is damaged.
    """
    tasks = [delayed(read_part)(fragment, columns, rule) for fragment in fragments]
    # Dask's bar sees only its own schedulers.
    shown = sys.stderr.isatty() and isinstance(scheduler, str)
    with ProgressBar(out=sys.stderr) if shown else nullcontext():  # type: ignore[no-untyped-call]
        return list(compute(*tasks, scheduler=scheduler))  # type: ignore[no-untyped-call]


def join_parts(parts: Sequence[Part]) -> Rows:
    """The usable rows of all parts with one code space for all ids; at least one part must have some."""
    tables = [part.rows for part in parts if len(part.rows)]
    times = [table.column("timestamp").to_numpy() for table in tables if "timestamp" in table.column_names]
    return Rows(
        ids=tuple(unify([table.column(name) for table in tables]) for name in id_columns(tables[0])),
        labels=np.concatenate([table.column("label").to_numpy() for table in tables]),
        times=np.concatenate(times) if times else None,
    )


def joined_bad(parts: Sequence[Part]) -> pa.Table:
    """The rows of all parts for the quarantine."""
    return pa.concat_tables([part.bad for part in parts])
