"""Rows that cannot be used: written to a file with their reason and place, and stopping the job when there are many."""

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.ingest.sources import MalformedRecord

QUARANTINE = pa.schema(
    [
        ("reason", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("value", pa.string()),
        ("timestamp", pa.string()),
        ("line", pa.string()),
    ]
)
"""``row`` counts a file's records from 0, without header and blank lines; ``value`` is the rating or label; ``line``
is the text of a malformed CSV line."""


def bad_rows(
    path: Path, numbers: NDArray[np.int64], reasons: NDArray[np.str_], plain: dict[str, pa.Array], at: NDArray[np.int64]
) -> pa.Table:
    """Rows that were read but cannot be used, in the quarantine's schema.

    Args:
        path: Their file.
        numbers: Their record numbers (n,).
        reasons: Why each is bad (n,).
        plain: Columns of the batch by role.
        at: Positions of the bad rows in the batch (n,).
    """
    shown = {name: column for name, column in plain.items() if name in ("user", "item", "value", "timestamp")}
    values = {name: column.take(pa.array(at)).cast(pa.string()) for name, column in shown.items()}
    return _table(path, numbers, pa.array(reasons.tolist(), pa.string()), values)


def bad_lines(path: Path, malformed: Sequence[MalformedRecord]) -> pa.Table:
    """Malformed CSV records in the quarantine's schema: one row for every line that a record spans."""
    lines = [(record.row, line) for record in malformed for line in record.text.splitlines()]
    numbers = np.array([row for row, _ in lines], dtype=np.int64)
    text = pa.array([line for _, line in lines], pa.string())
    return _table(path, numbers, pa.repeat("bad_line", len(lines)), {"line": text})


def count_reasons(bad: pa.Table) -> Counter[str]:
    """How many rows are bad for each reason."""
    counts = pc.value_counts(bad.column("reason")).to_pylist()
    return Counter({item["values"]: item["counts"] for item in counts})


def write_quarantine(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write the quarantine file, whole or not at all; it is there, without rows, when nothing was bad.

    Returns:
        Rows that it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{os.getpid()}-{secrets.token_hex(4)}")
    n_rows = 0
    try:
        with pq.ParquetWriter(aside, QUARANTINE) as writer:
            for table in tables:
                writer.write_table(table)
                n_rows += len(table)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    return n_rows


def check_share(reasons: Counter[str], n_read: int, max_share: float, path: Path) -> None:
    """Stop when too many rows are bad.

    Raises:
        InputError: naming the share, the counts by reason, and the quarantine file.
    """
    n_bad = reasons.total()
    if n_bad > max_share * n_read:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        raise InputError(
            f"{n_bad:,} of {n_read:,} rows ({n_bad / n_read:.2%}) cannot be used ({counts}), more than "
            f"--max-bad-share {max_share} allows: see {path}, then repair the logs or allow more"
        )


def _table(path: Path, numbers: NDArray[np.int64], reasons: pa.Array, values: dict[str, pa.Array]) -> pa.Table:
    """A table in the quarantine's schema; what is not known is null."""
    n_rows = len(numbers)
    known = {"reason": reasons, "file": pa.repeat(str(path), n_rows), "row": pa.array(numbers, pa.int64()), **values}
    columns = [known.get(field.name, pa.nulls(n_rows, field.type)) for field in QUARANTINE]
    return pa.Table.from_arrays(columns, schema=QUARANTINE)
