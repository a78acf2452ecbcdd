from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import InputError
from ifru_dist.ingest.quarantine import QUARANTINE, bad_lines, check_share, count_reasons, write_quarantine
from ifru_dist.ingest.sources import MalformedRecord


def _bad(n_rows: int) -> pa.Table:
    return bad_lines(Path("logs/a.csv"), [MalformedRecord(row, f"line {row}") for row in range(n_rows)])


def test_the_file_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.parquet"
    for n_rows in (3, 0, 2):
        write_quarantine(path, [_bad(n_rows)])
        table = pq.read_table(path)
        assert table.schema.equals(QUARANTINE)
        assert table.column("line").to_pylist() == [f"line {row}" for row in range(n_rows)]
    assert list(path.parent.iterdir()) == [path]


def test_reasons_are_counted() -> None:
    assert count_reasons(_bad(4)) == {"bad_line": 4}
    assert count_reasons(_bad(0)) == {}


def test_the_share_may_be_reached_but_not_passed(tmp_path: Path) -> None:
    check_share(count_reasons(_bad(1)), 100, 0.01, tmp_path)
    check_share(count_reasons(_bad(0)), 100, 0.0, tmp_path)
    with pytest.raises(
        InputError, match=r"2 of 100 rows \(2.00%\) cannot be used \(2 bad_line\).*--max-bad-share 0.01"
    ):
        check_share(count_reasons(_bad(2)), 100, 0.01, tmp_path)
