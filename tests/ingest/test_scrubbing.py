from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.ingest.quarantine import QUARANTINE, write_quarantine
from ifru_dist.ingest.scrubbing import MOST_CELLS, scrub_quarantine


def _erased(*named: tuple[str | None, str | None]) -> Callable[[str | None, str | None], bool]:
    return lambda user, item: (user, item) in named


def _row(**texts: Any) -> dict[str, Any]:
    return dict.fromkeys(QUARANTINE.names) | {"reason": "r", "file": "logs.csv", "row": 1} | texts


def _scrubbed(
    path: Path, rows: list[dict[str, Any]], *erased: tuple[str | None, str | None], integers: bool = False
) -> list[int]:
    """Positions of the rows that are gone."""
    numbered = [row | {"row": number} for number, row in enumerate(rows)]
    write_quarantine(path, [pa.Table.from_pylist(numbered, QUARANTINE)])
    before = path.read_bytes()
    counts = scrub_quarantine(path, _erased(*erased), (integers, integers), dry_run=True)
    assert path.read_bytes() == before
    assert scrub_quarantine(path, _erased(*erased), (integers, integers), dry_run=False) == counts
    table = pq.read_table(path)
    assert table.schema.equals(QUARANTINE)
    left = table.column("row").to_pylist()
    assert table.to_pylist() == [numbered[number] for number in left]
    assert counts == [len(rows), len(rows) - len(left)]
    assert list(path.parent.iterdir()) == [path]
    return sorted(set(range(len(rows))) - set(left))


def test_rows_go_with_their_user_their_item_or_their_pair(tmp_path: Path) -> None:
    rows = [
        _row(user="zoe", item="film", value="x"),
        _row(user="zoe", item="other"),
        _row(user="max", item="film"),
        _row(user="film", item="zoe"),
        _row(user=None, item="film"),
        _row(user="zoe"),
    ]
    path = tmp_path / "rows.parquet"
    assert _scrubbed(path, rows, ("zoe", None)) == [0, 1, 5]
    assert _scrubbed(path, rows, (None, "film")) == [0, 2, 4]
    assert _scrubbed(path, rows, ("zoe", "film")) == [0]
    assert _scrubbed(path, rows) == []


def test_malformed_lines_are_read_cell_by_cell(tmp_path: Path) -> None:
    lines = [
        "zoe,film",
        "1,2,zoe,film,5",
        '"zoe",film,1,2',
        '"zoe,film,5',
        '5,film,zoe"',
        " zoe ;film",
        "zoe2,film",
        "film, zoe ,4",
    ]
    rows = [_row(line=line) for line in lines]
    path = tmp_path / "rows.parquet"
    assert _scrubbed(path, rows, ("zoe", None)) == [0, 1, 2, 3, 4, 7]
    assert _scrubbed(path, rows, ("zoe", "film")) == [0, 1, 2, 3, 4, 7]
    assert _scrubbed(path, rows, (None, "film")) == [0, 1, 2, 3, 4, 6, 7]


def test_integer_ids_are_known_in_any_spelling_and_texts_in_their_own(tmp_path: Path) -> None:
    rows = [_row(user=text) for text in ("42", "042", "42.0", "+42", " 42", "420", "4 2", "42.5")]
    path = tmp_path / "rows.parquet"
    assert _scrubbed(path, rows, ("42", None), integers=True) == [0, 1, 2, 3, 4]
    assert _scrubbed(path, rows, ("42", None)) == [0, 4]


def test_what_stands_in_the_wrong_column_is_found_and_plain_numbers_are_left(tmp_path: Path) -> None:
    rows = [
        _row(user="5", item="6", value="zoe"),
        _row(user="5", item="6", timestamp="zoe"),
        _row(user="a", item="b", value="42", timestamp="42"),
        _row(user='open"quote\nzoe,film,4', item="6"),
    ]
    path = tmp_path / "rows.parquet"
    assert _scrubbed(path, rows, ("zoe", None), ("42", None)) == [0, 1, 3]


def test_a_line_of_very_many_cells_goes_unseen(tmp_path: Path) -> None:
    rows = [_row(line=",".join(map(str, range(count)))) for count in (MOST_CELLS, MOST_CELLS + 1)]
    assert _scrubbed(tmp_path / "rows.parquet", rows, ("zoe", None)) == [1]


@pytest.mark.parametrize("content", [b"no parquet", b""])
def test_a_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"rows\.parquet cannot be read .*: delete it, or restore it"):
        scrub_quarantine(path, _erased(), (False, False), dry_run=False)


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"user": ["zoe"]}), path)
    with pytest.raises(WorkspaceError, match="cannot be read"):
        scrub_quarantine(path, _erased(("zoe", None)), (False, False), dry_run=False)
