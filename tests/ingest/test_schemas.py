from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import InputError
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.schemas import resolve_columns
from ifru_dist.ingest.sources import Columns, LogFile, open_file

_OPTIONS = PrepareOptions(logs="logs", positive_threshold=1.0)


def _file(path: Path, **columns: pa.Array) -> LogFile:
    row = {"user": pa.array([1]), "item": pa.array(["a"]), "rating": pa.array([1.5])} | columns
    pq.write_table(pa.table(row), path)
    return open_file(path)


def _options(**changes: Any) -> PrepareOptions:
    return PrepareOptions(**{"logs": "logs", "positive_threshold": 1.0} | changes)


def test_a_timestamp_column_is_used_when_there_and_when_asked_for(tmp_path: Path) -> None:
    plain = _file(tmp_path / "a.parquet", time=pa.array([1]))
    timed = _file(tmp_path / "b.parquet", timestamp=pa.array([1]))
    assert resolve_columns(_OPTIONS, [plain]) == Columns("user", "item", "rating", None)
    assert resolve_columns(_OPTIONS, [timed]).timestamp == "timestamp"
    assert resolve_columns(_options(timestamp_column="time"), [plain]).timestamp == "time"
    given = _options(valid="v", test="t")
    assert resolve_columns(given, [timed]).timestamp is None


def test_a_timestamp_in_some_files_only_is_an_error(tmp_path: Path) -> None:
    files = [_file(tmp_path / "a.parquet", timestamp=pa.array([1])), _file(tmp_path / "b.parquet")]
    with pytest.raises(InputError, match=r"b\.parquet has no column 'timestamp'"):
        resolve_columns(_OPTIONS, files)


def test_fields_are_ids(tmp_path: Path) -> None:
    options = _options(fields=("hour", "device"))
    first = _file(tmp_path / "a.parquet", hour=pa.array([7]), device=pa.array(["phone"]))
    assert resolve_columns(options, [first]).by_role() == {
        "user": "user",
        "item": "item",
        "hour": "hour",
        "device": "device",
        "value": "rating",
    }
    other = _file(tmp_path / "b.parquet", hour=pa.array(["7"]), device=pa.array(["phone"]))
    with pytest.raises(InputError, match=r"ids in column 'hour' are integers in .*a\.parquet but strings in"):
        resolve_columns(options, [first, other])
    truth = _file(tmp_path / "c.parquet", hour=pa.array([True]), device=pa.array(["phone"]))
    with pytest.raises(InputError, match=r"'hour' of .* has type bool: write it as integers or strings"):
        resolve_columns(options, [truth])


@pytest.mark.parametrize(
    ("column", "values", "wanted"),
    [
        ("user", pa.array([date(2020, 1, 1)]), "date32.*: write it as integers or strings"),
        ("item", pa.array([True]), "bool: write it as integers or strings"),
        ("rating", pa.array([[1.0]]), "numbers"),
        ("timestamp", pa.array([False]), "bool: write it as numbers or timestamps"),
    ],
)
def test_a_type_that_cannot_serve_is_named(tmp_path: Path, column: str, values: pa.Array, wanted: str) -> None:
    file = _file(tmp_path / "a.parquet", **{column: values})
    with pytest.raises(InputError, match=f"column '{column}' of .*a.parquet has type .*{wanted}"):
        resolve_columns(_OPTIONS, [file])


def test_ids_of_one_kind_in_all_files(tmp_path: Path) -> None:
    integers = _file(tmp_path / "a.parquet", user=pa.array([1], pa.int8()))
    wide = _file(tmp_path / "b.parquet", user=pa.array([1], pa.uint64()))
    strings = _file(tmp_path / "c.parquet", user=pa.array(["1"]).dictionary_encode())
    (tmp_path / "d.csv").write_text("user,item,rating\n1,a,1\n")
    floats = _file(tmp_path / "e.parquet", user=pa.array([1.0]))
    resolve_columns(_OPTIONS, [integers, wide, floats])
    for other, kind in ((strings, "strings"), (open_file(tmp_path / "d.csv"), "CSV text")):
        with pytest.raises(InputError, match=f"'user' are integers in .*a.parquet but {kind} in {other.path}"):
            resolve_columns(_OPTIONS, [integers, other])


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,user,rating\n")
    with pytest.raises(InputError, match="has 2 columns named 'user'"):
        resolve_columns(_OPTIONS, [open_file(tmp_path / "a.csv")])


def test_a_missing_label_column_names_its_option(tmp_path: Path) -> None:
    options = _options(label_column="label", positive_threshold=None)
    with pytest.raises(InputError, match=r"no column 'label'; it has: user, item, rating\. .* --label-column"):
        resolve_columns(options, [_file(tmp_path / "a.parquet")])


def test_the_first_line_of_a_csv_file_is_not_shown_as_it_may_hold_ids(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ann,bob,3\n")
    with pytest.raises(InputError, match="it has: a first line of 3 values") as caught:
        resolve_columns(_OPTIONS, [open_file(tmp_path / "a.csv")])
    assert "ann" not in str(caught.value)
