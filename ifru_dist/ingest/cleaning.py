"""Which rows can be used: reading a fragment into usable rows and bad ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import InputError, reason_of
from ifru_dist.ingest.quarantine import bad_lines, bad_rows
from ifru_dist.ingest.sources import Columns, Fragment, MalformedRecord, read_fragment
from ifru_dist.ingest.values import (
    NoWholeNumberError,
    as_numbers,
    as_times,
    has_line_break,
    is_missing,
    plain_columns,
)

MOST_ROWS = 1 << 16


@dataclass(frozen=True)
class LabelRule:
    """How a value becomes a label."""

    threshold: float | None
    """Label 1 means value > threshold; None: the values are labels already."""

    @property
    def reason(self) -> str:
        """Reason for the quarantine of a row without a usable value."""
        return "bad_label" if self.threshold is None else "bad_rating"

    def usable(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mask of the values that give a label, (n,)."""
        return (values == 0) | (values == 1) if self.threshold is None else np.isfinite(values)

    def labels(self, values: NDArray[np.float64]) -> NDArray[np.int8]:
        """Labels 0 or 1 of usable values, (n,)."""
        return (values > (0.5 if self.threshold is None else self.threshold)).astype(np.int8)


@dataclass(frozen=True)
class Part:
    """What some rows of a fragment gave."""

    rows: pa.Table
    """Usable rows in file order: user, item and further fields (int64 or large_string), label (int8), timestamp
    (float64) where read. Without columns where there are only bad lines."""
    bad: pa.Table
    """Rows for the quarantine, in its schema."""

    @property
    def n_read(self) -> int:
        """Rows read, usable or not."""
        return len(self.rows) + len(self.bad)


def read_parts(fragment: Fragment, columns: Columns, rule: LabelRule, most_rows: int = MOST_ROWS) -> Iterator[Part]:
    """Read a fragment a few rows at a time, and sort them into usable and bad ones.

    Args:
        fragment: What to read.
        columns: Names in the file.
        rule: What becomes a label.
        most_rows: Of a part; a block of a CSV file is one, whatever it holds.

    Raises:
        InputError: the file is damaged, or an id is a number that is no integer of 64 bits.
    """
    malformed: list[MalformedRecord] = []
    first, skipped = fragment.first_row, 0
    for batch in read_fragment(fragment, columns, malformed, most_rows):
        plain = _plain(batch, fragment)
        rows, problems = _judge(plain, rule)
        reasons = _first_reason(problems, len(batch))
        at = np.flatnonzero(reasons)
        names = np.array(["", *problems])[reasons[at]]
        # Arrow reads ahead: records that lie behind these rows are for the next part.
        numbers = skipped + _record_numbers(first + np.arange(len(batch)), malformed, skipped)
        last = int(numbers[-1]) if len(numbers) else -1
        passed = [record for record in malformed if record.row < last]
        bad = pa.concat_tables(
            [bad_rows(fragment.path, numbers[at], names, plain, at), bad_lines(fragment.path, passed)]
        )
        yield Part(rows.filter(pa.array(reasons == 0)), bad)
        del malformed[: len(passed)]
        skipped += len(passed)
        first += len(batch)
    if malformed:
        yield Part(pa.table({}), bad_lines(fragment.path, malformed))


def _plain(batch: pa.RecordBatch, fragment: Fragment) -> dict[str, pa.Array]:
    """Columns by role in the types that the rest expects."""
    try:
        return plain_columns(batch)
    except NoWholeNumberError as error:
        raise InputError(
            f"{fragment.path}: the ids of role {error} are floats, and not all of them are integers up to the largest "
            "that such floats tell apart: write ids as integers or strings"
        ) from error
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{fragment.path} has an id beyond signed 64 bits ({reason_of(error)}): write ids as strings"
        ) from error


def _judge(plain: dict[str, pa.Array], rule: LabelRule) -> tuple[pa.Table, dict[str, NDArray[np.bool_]]]:
    """The rows with labels and comparable times, and the masks of the rows with each problem."""
    ids = {role: column for role, column in plain.items() if role not in ("value", "timestamp")}
    values = as_numbers(plain["value"])
    columns = {**ids, "label": rule.labels(values)}
    problems = {
        **{f"null_{role}": is_missing(column) for role, column in ids.items()},
        "line_break_in_id": np.any([has_line_break(column) for column in ids.values()], axis=0),
        rule.reason: ~rule.usable(values),
    }
    if "timestamp" in plain:
        times = as_times(plain["timestamp"])
        columns["timestamp"] = times
        problems["bad_timestamp"] = ~np.isfinite(times)
    return pa.table(columns), problems


def _first_reason(problems: dict[str, NDArray[np.bool_]], n_rows: int) -> NDArray[np.int8]:
    """For each row 1 + the index of its first problem, or 0; (n,)."""
    reasons = np.zeros(n_rows, dtype=np.int8)
    for code, mask in reversed(list(enumerate(problems.values(), start=1))):
        reasons[mask] = code
    return reasons


def id_columns(rows: pa.Table) -> list[str]:
    """Names of the id columns of usable rows: user, item, then further fields."""
    return [name for name in rows.column_names if name not in ("label", "timestamp")]


def _record_numbers(positions: NDArray[np.int64], malformed: list[MalformedRecord], skipped: int) -> NDArray[np.int64]:
    """Record numbers of parsed rows (n,), given by position: malformed records before a row count too.

    Those that were ``skipped`` lie before all of the rows, and are in ``malformed`` no more.
    """
    before = np.array([record.row for record in malformed], dtype=np.int64) - np.arange(len(malformed))
    return positions + np.searchsorted(before - skipped, positions, side="right")
