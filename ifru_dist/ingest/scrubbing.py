"""Taking erased users, items and pairs out of the quarantine, whose rows hold ids as they stood in the logs.

What was erased is known by keyed digests only, so a text is recognised when a whole cell of it is an id.
"""

import csv
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ifru_dist.errors import WorkspaceError, reason_of
from ifru_dist.ingest.quarantine import QUARANTINE
from ifru_dist.ingest.values import NUMBER
from ifru_dist.workspace.files import REMNANT, sync_path
from ifru_dist.workspace.suppression import SuppressionList

WasErased = Callable[[str | None, str | None], bool]
"""Whether a user (and no item), an item (and no user), or the pair of both was erased; ids in the tables' spelling."""

MOST_CELLS = 100
"""A malformed line of more cells goes without being looked at: it would have too many pairs."""
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.0*)?")
_NUMBER = re.compile(NUMBER)


def scrub_quarantine(path: Path, was_erased: WasErased, integer_ids: tuple[bool, bool], *, dry_run: bool) -> list[int]:
    """Take the rows that hold erased ids out of a quarantine file, in one step.

    Args:
        path: The file.
        was_erased: What was erased.
        integer_ids: Whether the ids of users, and of items, are integers.
        dry_run: Only count.

    Returns:
        How many rows there were, and how many of them went.

    Raises:
        WorkspaceError: it cannot be read.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = file.read(QUARANTINE.names).select(QUARANTINE.names).cast(QUARANTINE)
        rows.validate(full=True)  # text and offsets of a damaged file are not checked by its reader
        gone = _mask(rows, was_erased, integer_ids)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise WorkspaceError(
            f"{path} cannot be read ({reason_of(error)}), so it cannot be seen whether it holds ids that were erased: "
            "delete it, or restore it from a backup"
        ) from error
    if any(gone) and not dry_run:
        _replace(path, rows.filter(pc.invert(pa.array(gone))))
    return [len(gone), sum(gone)]


def without_suppressed(rows: pa.Table, listed: SuppressionList) -> pa.Table:
    """Rows of the quarantine without those that may name what is suppressed, before they are written.

    How the tables spell ids is not known yet: an integer is also looked for as pandas writes it beside empty cells.
    """

    def was_erased(user: str | None, item: str | None) -> bool:
        return any(listed.holds(*pair) for pair in product(_as_float_too(user), _as_float_too(item)))

    return rows.filter(pc.invert(pa.array(_mask(rows, was_erased, (True, True)), pa.bool_())))


def _as_float_too(text: str | None) -> tuple[str | None, ...]:
    """An id, and 12.0 beside 12."""
    return (text, f"{text}.0") if text and text.lstrip("-").isdigit() else (text,)


def _mask(rows: pa.Table, was_erased: WasErased, integer_ids: tuple[bool, bool]) -> list[bool]:
    """Of rows of the quarantine, which name something that was erased."""
    texts = rows.select([name for name in QUARANTINE.names if pa.types.is_string(QUARANTINE.field(name).type)])
    return [_holds_erased(row, was_erased, integer_ids) for row in texts.to_pylist()]


def _holds_erased(row: dict[str, str | None], was_erased: WasErased, integer_ids: tuple[bool, bool]) -> bool:
    """Whether a row of the quarantine names something that was erased."""
    lines, users, items = [row["line"]], [row["user"]], [row["item"]]
    for name in ("user", "item"):  # an unclosed quote may have drawn the next lines into an id
        lines += [row[name]] if "\n" in (row[name] or "") else []
    for text in (row["value"], row["timestamp"]):  # what is no number may be an id, of columns that were mixed up
        lines += [text] if text is not None and not _NUMBER.fullmatch(text.strip()) else []
    cells = {cell for line in lines if line is not None for cell in _cells(line)}
    if len(cells) > MOST_CELLS:
        return True
    user_ids = _spellings([*users, *cells], integer_ids[0])
    item_ids = _spellings([*items, *cells], integer_ids[1])
    return (
        any(was_erased(user, None) for user in user_ids)
        or any(was_erased(None, item) for item in item_ids)
        or any(was_erased(*pair) for pair in product(user_ids, item_ids))
    )


def _cells(text: str) -> Iterator[str]:
    """The cells of lines of CSV, and what lies between their commas, should a quote be broken."""
    for line in text.splitlines():
        with suppress(csv.Error):  # a cell beyond the reader's limit
            yield from next(csv.reader([line]), [])
        yield from (cell.strip(' "') for cell in line.split(","))


def _spellings(texts: Iterable[str | None], integer_ids: bool) -> set[str]:
    """The ids that texts may mean, as the tables spell them."""
    known = {text for text in texts if text}
    known |= {text.strip() for text in known}
    if integer_ids:
        known |= {str(int(text.partition(".")[0])) for text in known if _WHOLE_NUMBER.fullmatch(text)}
    return known


def _replace(path: Path, rows: pa.Table) -> None:
    """Put a file in the place of the one before, durably."""
    aside = path.with_name(f"{REMNANT}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        pq.write_table(rows, aside)
        sync_path(aside)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_path(path.parent)
