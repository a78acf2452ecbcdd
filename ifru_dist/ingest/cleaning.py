"""Which rows can be used: reading a fragment into usable rows and bad ones."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import InputError, reason_of
from ifru_dist.ingest.quarantine import QUARANTINE, bad_lines, bad_rows
from ifru_dist.ingest.sources import Columns, Fragment, MalformedRecord, read_fragment
from ifru_dist.ingest.values import (
    NoWholeNumberError,
    as_numbers,
    as_times,
    has_line_break,
    is_missing,
    plain_columns,
)


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
    """What one fragment gave."""

    rows: pa.Table
    """Usable rows in file order: user, item and further fields (dictionary-encoded), label (int8), timestamp (float64)
    where read."""
    bad: pa.Table
    """Rows for the quarantine, in its schema."""

    @property
    def n_read(self) -> int:
        """Rows read, usable or not."""
        return len(self.rows) + len(self.bad)


def read_part(fragment: Fragment, columns: Columns, rule: LabelRule) -> Part:
    """Read a fragment and sort its rows into usable and bad ones.

    Raises:
        InputError: the file is damaged, or an id is a number that is no integer of 64 bits.
    """
    malformed: list[MalformedRecord] = []
    good: list[pa.Table] = []
    bad = [QUARANTINE.empty_table()]
    first = fragment.first_row
    for batch in read_fragment(fragment, columns, malformed):
        plain = _plain(batch, fragment)
        rows, problems = _judge(plain, rule)
        reasons = _first_reason(problems, len(batch))
        good.append(_encoded(rows.filter(pa.array(reasons == 0))))
        at = np.flatnonzero(reasons)
        names = np.array(["", *problems])[reasons[at]]
        bad.append(bad_rows(fragment.path, _record_numbers(first + at, malformed), names, plain, at))
        first += len(batch)
    bad.append(bad_lines(fragment.path, malformed))
    return Part(pa.concat_tables(good) if good else pa.table({}), pa.concat_tables(bad))


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


def _encoded(rows: pa.Table) -> pa.Table:
    """The rows with ids as codes into the ids that occur."""
    for name in id_columns(rows):
        ids = rows.column(name).combine_chunks().dictionary_encode()
        rows = rows.set_column(rows.schema.get_field_index(name), name, ids)
    return rows


def _record_numbers(positions: NDArray[np.int64], malformed: list[MalformedRecord]) -> NDArray[np.int64]:
    """Record numbers of parsed rows (n,), given by position: malformed records before a row count too."""
    before = np.array([record.row for record in malformed], dtype=np.int64) - np.arange(len(malformed))
    return positions + np.searchsorted(before, positions, side="right")
