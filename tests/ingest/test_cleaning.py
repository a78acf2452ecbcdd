from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import InputError
from ifru_dist.ingest import sources
from ifru_dist.ingest.cleaning import LabelRule, Part, read_parts
from ifru_dist.ingest.quarantine import QUARANTINE
from ifru_dist.ingest.sources import Columns, open_file

_COLUMNS = Columns("user", "item", "rating", None)
_RATINGS = LabelRule(threshold=3.0)


def _parts(path: Path, columns: Columns = _COLUMNS, rule: LabelRule = _RATINGS) -> list[Part]:
    """What the fragments of a file gave, each as one part."""
    fragments = [list(read_parts(fragment, columns, rule)) for fragment in open_file(path).fragments()]
    return [
        Part(
            pa.concat_tables([part.rows for part in parts if part.rows.column_names]),
            pa.concat_tables([part.bad for part in parts]),
        )
        for parts in fragments
    ]


def test_every_bad_row_of_a_csv_file_is_quarantined_with_reason_and_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "user,item,rating,more\n1,a,5,\nshort\n,a,5,\n2, ,5,\n\n3,b,five,\n4,b,inf,\n5,b,3,\n1,2,3,4,5\n6,c,,\n"
    )
    part = _parts(path)[0]
    assert part.bad.schema == QUARANTINE
    bad = part.bad.sort_by("row").to_pandas().astype(object)
    expected = [
        ("bad_line", 1, None, None, None, "short"),
        ("null_user", 2, "", "a", "5", None),
        ("null_item", 3, "2", " ", "5", None),
        ("bad_rating", 4, "3", "b", "five", None),
        ("bad_rating", 5, "4", "b", "inf", None),
        ("bad_line", 7, None, None, None, "1,2,3,4,5"),
        ("bad_rating", 8, "6", "c", "", None),
    ]
    columns = ["reason", "row", "user", "item", "value", "line"]
    assert list(bad[columns].where(bad.notna(), None).itertuples(index=False, name=None)) == expected
    assert set(bad["file"]) == {str(path)}
    assert part.n_read == 9
    assert part.rows.to_pydict() == {"user": ["1", "5"], "item": ["a", "b"], "label": [1, 0]}


def test_a_field_without_a_value_is_quarantined_like_an_id(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('row,user,item,rating,hour\n1,1,a,5,7\n2,1,b,5,\n3,2,b,5," "\n4,2,a,5,"7\n8"\n')
    part = _parts(path, Columns("user", "item", "rating", None, fields=("row", "hour")))[0]
    assert part.bad.schema == QUARANTINE
    assert part.bad.column("reason").to_pylist() == ["null_hour", "null_hour", "line_break_in_id"]
    assert part.bad.column("row").to_pylist() == [1, 2, 3]  # numbers of records, not the field of that name
    assert part.rows.to_pydict() == {"user": ["1"], "item": ["a"], "row": ["1"], "hour": ["7"], "label": [1]}


def test_rows_of_later_row_groups_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    users = pa.array([None if row in (1, 4, 5) else row for row in range(7)], pa.int64())
    pq.write_table(
        pa.table({"user": users, "item": users, "rating": range(7)}), tmp_path / "a.parquet", row_group_size=3
    )
    parts = _parts(tmp_path / "a.parquet")
    assert [part.bad.column("row").to_pylist() for part in parts] == [[1], [4, 5], []]
    assert [part.rows.column("user").to_pylist() for part in parts] == [[0, 2], [3], [6]]


def test_numbers_are_right_when_a_csv_file_is_read_in_many_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CSV_BLOCK_BYTES", 128)
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 4, 500)
    lines = [{0: "x", 1: f",{row},1"}.get(int(kind), f"{row},{row},1") for row, kind in enumerate(kinds)]
    (tmp_path / "a.csv").write_text("user,item,rating\n" + "\n".join(lines) + "\n")
    part = _parts(tmp_path / "a.csv")[0]
    for kind, reason in ((0, "bad_line"), (1, "null_user")):
        rows = [row["row"] for row in part.bad.to_pylist() if row["reason"] == reason]
        assert rows == np.flatnonzero(kinds == kind).tolist()
    assert part.rows.column("user").to_pylist() == [str(row) for row in np.flatnonzero(kinds > 1)]


def test_an_unclosed_quote_quarantines_every_line_that_it_swallows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user,item,rating\n1,a,5\n"2,b,5\n3,c,5\n4,"d,5\n6,e,5\n')
    part = _parts(tmp_path / "a.csv")[0]
    assert part.bad.column("line").to_pylist() == ['"2,b,5', "3,c,5", '4,"d,5']
    assert part.rows.column("user").to_pylist() == ["1", "6"]


def test_an_id_with_a_line_break_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user,item,rating\n"1\n2",a,5\n')
    part = _parts(tmp_path / "a.csv")[0]
    assert part.bad.column("reason").to_pylist() == ["line_break_in_id"]


def test_labels_must_be_0_or_1(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": range(5), "item": range(5), "label": [0.0, 1.0, 0.5, 2.0, None]})
    frame.to_parquet(tmp_path / "a.parquet")
    part = _parts(tmp_path / "a.parquet", Columns("user", "item", "label", None), LabelRule(threshold=None))[0]
    assert part.rows.column("label").to_pylist() == [0, 1]
    assert part.bad.column("reason").to_pylist() == ["bad_label"] * 3


def test_a_null_timestamp_makes_a_row_bad_where_timestamps_are_read(tmp_path: Path) -> None:
    table = pa.table({"user": [1, 2], "item": [1, 2], "rating": [1, 2], "time": pa.array([None, 7])})
    pq.write_table(table, tmp_path / "a.parquet")
    part = _parts(tmp_path / "a.parquet", Columns("user", "item", "rating", "time"))[0]
    assert part.bad.column("reason").to_pylist() == ["bad_timestamp"]
    assert part.rows.column("timestamp").to_pylist() == [7.0]
    assert len(_parts(tmp_path / "a.parquet")[0].bad) == 0


def test_floats_that_are_no_integers_are_refused_without_the_id(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1.0, 77.5], "item": [1, 2], "rating": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet: the ids of role user are floats, .* as integers or str"
    ) as caught:
        _parts(tmp_path / "a.parquet")
    assert "77" not in str(caught.value)


def test_an_id_beyond_64_bits_names_the_file(tmp_path: Path) -> None:
    table = pa.table({"user": pa.array([2**63], pa.uint64()), "item": [1], "rating": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet has an id beyond signed 64 bits .* write ids as strings"
    ) as caught:
        _parts(tmp_path / "a.parquet")
    assert str(2**63) not in str(caught.value)
