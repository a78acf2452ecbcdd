from pathlib import Path

import pandas as pd
import pytest

from ifru_dist.errors import InputError
from ifru_dist.ingest.cleaning import LabelRule
from ifru_dist.ingest.reading import join_parts, joined_bad, read_parts
from ifru_dist.ingest.sources import Columns, open_file
from tests.ingest.logs import write_csv, write_parquet

_COLUMNS = Columns("user", "item", "rating", None)


def test_parts_come_in_the_order_of_the_fragments_and_share_one_code_space(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [7, 5, 7, 3, 5, 9, 3], "item": list("abcabca"), "rating": [0.0, 5.0] * 3 + [0.0]})
    write_parquet(tmp_path, [frame], row_group_size=2)
    fragments = open_file(tmp_path / "part-0.parquet").fragments()
    rows = join_parts(read_parts(fragments, _COLUMNS, LabelRule(3.0), "threads"))
    assert rows.users.ids.to_pylist() == [7, 5, 3, 9]
    assert rows.users.codes.tolist() == [0, 1, 0, 2, 1, 3, 2]
    assert [rows.items.ids[int(code)].as_py() for code in rows.items.codes] == list("abcabca")
    assert rows.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert rows.times is None
    assert len(rows) == 7


def test_a_part_without_usable_rows_does_not_disturb_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,rating\nx\n")
    (tmp_path / "b.csv").write_text("user,item,rating\nu,i,5\n")
    fragments = [fragment for name in "ab" for fragment in open_file(tmp_path / f"{name}.csv").fragments()]
    parts = read_parts(fragments, _COLUMNS, LabelRule(3.0), "threads")
    assert len(join_parts(parts)) == 1
    assert joined_bad(parts).column("file").to_pylist() == [str(tmp_path / "a.csv")]


def test_the_scheduler_that_is_handed_in_does_the_work(tmp_path: Path) -> None:
    write_csv(tmp_path, [pd.DataFrame({"user": [1], "item": [2], "rating": [3.0]})])
    seen = []

    def scheduler(graph: object, keys: list[object], **_: object) -> list[object]:
        seen.append(graph)
        return [None for _ in keys]

    fragments = open_file(tmp_path / "part-0.csv").fragments()
    assert read_parts(fragments, _COLUMNS, LabelRule(3.0), scheduler) == [None]
    assert len(seen) == 1


def test_damage_that_only_a_task_can_see_stops_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,item,rating\n" + b"1,1,1\n" * 20_000 + b"\xff,1,1\n")
    fragments = open_file(path).fragments()
    with pytest.raises(InputError, match=r"a\.csv cannot be read as CSV"):
        read_parts(fragments, _COLUMNS, LabelRule(3.0), "threads")
