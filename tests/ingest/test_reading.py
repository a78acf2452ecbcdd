from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from ifru_dist.errors import InputError
from ifru_dist.ingest.cleaning import LabelRule
from ifru_dist.ingest.reading import Reading, bad_tables, in_tasks, read_chunks
from ifru_dist.ingest.sources import Columns, Fragment, open_file
from ifru_dist.ingest.spilling import read_rows
from tests.ingest.logs import write_csv, write_parquet

_COLUMNS = Columns("user", "item", "rating", None)


def _read(fragments: list[Fragment], tmp_path: Path, chunk_rows: int = 4, n_buckets: int = 3) -> Reading:
    return read_chunks(fragments, _COLUMNS, LabelRule(3.0), tmp_path / "read", chunk_rows, n_buckets)


def _ids(reading: Reading, chunk: int, table: int) -> list[object]:
    """The ids of a chunk's rows."""
    found = reading.chunks[chunk]
    file = pa.ipc.open_file(pa.memory_map(str(found.ids[table].path)))
    ids = [text for index in range(file.num_record_batches) for text in file.get_batch(index).column(0).to_pylist()]
    columns = read_rows(found.rows, slice(0, found.rows.n_rows))
    return [ids[number] for number in columns[("user", "item")[table]]]


def test_chunks_hold_the_rows_of_fragments_in_their_order(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [7, 5, 7, 3, 5, 9, 3], "item": list("abcabca"), "rating": [0.0, 5.0] * 3 + [0.0]})
    write_parquet(tmp_path / "logs", [frame], row_group_size=2)
    reading = _read(open_file(tmp_path / "logs" / "part-0.parquet").fragments(), tmp_path)
    assert [chunk.rows.n_rows for chunk in reading.chunks] == [4, 3]
    assert [_ids(reading, chunk, 0) for chunk in range(2)] == [[7, 5, 7, 3], [5, 9, 3]]
    assert [_ids(reading, chunk, 1) for chunk in range(2)] == [list("abca"), list("bca")]
    labels = [read_rows(chunk.rows, slice(0, chunk.rows.n_rows))["label"].tolist() for chunk in reading.chunks]
    assert labels == [[0, 1, 0, 1], [0, 1, 0]]
    assert (reading.n_read, reading.n_usable, reading.bad) == (7, 7, None)


def test_the_distinct_ids_of_a_chunk_lie_in_buckets_that_follow_from_them_alone(tmp_path: Path) -> None:
    first = pd.DataFrame({"user": [f"user {number}" for number in range(50)], "item": range(50), "rating": 5.0})
    write_parquet(tmp_path / "logs", [first, first[::-1]])
    found = []
    for number in range(2):
        fragments = open_file(tmp_path / "logs" / f"part-{number}.parquet").fragments()
        chunk = _read(fragments, tmp_path, chunk_rows=100).chunks[0]
        for local in chunk.ids:
            file = pa.ipc.open_file(pa.memory_map(str(local.path)))
            found.append([set(file.get_batch(bucket).column(0).to_pylist()) for bucket in range(3)])
    assert found[:2] == found[2:]
    assert all(len(bucket) > 5 for bucket in found[0] + found[1])


def test_tasks_take_fragments_until_they_make_a_chunk() -> None:
    fragments = [Fragment(Path("a"), number, 0, n_rows) for number, n_rows in enumerate([3, 3, 1, 9, 0, 2, 4])]
    tasks = in_tasks(fragments, 5)
    assert [[fragment.row_group for fragment in task] for task in tasks] == [[0, 1], [2, 3], [4, 5, 6]]


def test_a_fragment_without_usable_rows_does_not_disturb_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,rating\nx\n")
    (tmp_path / "b.csv").write_text("user,item,rating\nu,i,5\n")
    reading = _read(
        [fragment for name in "ab" for fragment in open_file(tmp_path / f"{name}.csv").fragments()], tmp_path
    )
    assert (reading.n_read, reading.n_usable, dict(reading.reasons)) == (2, 1, {"bad_line": 1})
    assert [table.column("file").to_pylist() for table in bad_tables([reading])] == [[str(tmp_path / "a.csv")]]


def test_damage_that_only_a_task_can_see_stops_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,item,rating\n" + b"1,1,1\n" * 20_000 + b"\xff,1,1\n")
    with pytest.raises(InputError, match=r"a\.csv cannot be read as CSV"):
        _read(open_file(path).fragments(), tmp_path, 1000)


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path, [pd.DataFrame({"user": [1], "item": [2], "rating": [3.0]})])
    frame = pd.DataFrame({"user": range(1000), "item": 1, "rating": 5.0})
    path = write_parquet(tmp_path, [frame], row_group_size=100) / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"part-0\.parquet cannot be read as Parquet .*: write or copy the file anew"):
        open_file(path)
