"""Request files: the same requests from every format, and one readable error for everything that cannot be used."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import InputError
from ifru_dist.pipelines.requests import Request, read_requests

COLUMNS = ("request_id", "scope", "user", "item")
SUFFIXES = [".parquet", ".csv", ".jsonl", ".json"]
EACH_FORMAT = pytest.mark.parametrize("suffix", SUFFIXES)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows that share their columns, in the format that the suffix names."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([["" if row[name] is None else row[name] for name in names] for row in rows])
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(*named: tuple[str, str]) -> list[Request]:
    return [Request(None, "interaction", user, item) for user, item in named]


def refused(path: Path, *expected: str) -> str:
    """Reading the file fails; returns the message, which names the file, is one line and holds the expected parts."""
    with pytest.raises(InputError) as caught:
        read_requests(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in expected:
        assert part in message
    return message


# ------------------------------------------------------------------------------------------- what every format can say


@EACH_FORMAT
def test_text_ids_keep_their_spelling(tmp_path: Path, suffix: str) -> None:
    spellings = [("007", "00"), ("-1", "+1"), ("1e3", "2020-01-31"), ("42.0", "NaN"), ("null", "true"), (" a", 'b,"c')]
    path = write(tmp_path / f"r{suffix}", [{"user": user, "item": item} for user, item in spellings])
    assert read_requests(path) == pairs(*spellings)


@EACH_FORMAT
def test_integers_and_their_texts_name_the_same(tmp_path: Path, suffix: str) -> None:
    numbers = write(tmp_path / f"n{suffix}", [{"user": 42, "item": -7}, {"user": 2**63 - 1, "item": 0}])
    texts = write(tmp_path / f"t{suffix}", [{"user": "42", "item": "-7"}, {"user": str(2**63 - 1), "item": "0"}])
    expected = pairs(("42", "-7"), ("9223372036854775807", "0"))
    assert read_requests(numbers) == read_requests(texts) == expected


@EACH_FORMAT
@pytest.mark.parametrize(
    ("column", "meant"),
    [
        *((name, "request_id") for name in ("requestOid", "req_id", "Request_ID", "request-id", "requestid", "reqid")),
        *((name, "scope") for name in ("Scope", "SCOPE", " scope", "scop", "scopes")),
    ],
)
def test_a_column_that_was_meant_for_an_optional_one_is_refused(
    tmp_path: Path, suffix: str, column: str, meant: str
) -> None:
    path = write(tmp_path / f"r{suffix}", [{"user": "u", "item": "i", column: "interaction"}])
    refused(path, f"has a column {column!r}, but none {meant!r}", f"rename it to {meant}", "leave it out")
    both = {"user": "u", "item": "i", column: "x", meant: "interaction"}
    assert len(read_requests(write(tmp_path / f"b{suffix}", [both]))) == 1


@EACH_FORMAT
@pytest.mark.parametrize("scope", ["user", "item"])
@pytest.mark.parametrize("shape", ["{}s", "{} ", "{}_id", "{}id", "{} ID", "u/capital", "short"])
def test_a_misspelt_user_or_item_never_widens_a_request(tmp_path: Path, suffix: str, scope: str, shape: str) -> None:
    other = {"user": "item", "item": "user"}[scope]
    names = {"u/capital": other.capitalize(), "short": {"user": "usr", "item": "itm"}[other]}
    column = names.get(shape, shape.format(other))
    row = {column: "x", scope: "y", "scope": scope}
    refused(write(tmp_path / f"r{suffix}", [row]), f"has a column {column!r}, but none {other!r}", f"it to {other} if")
    empty_beside = write(tmp_path / f"e{suffix}", [row | {other: "z", "scope": "interaction"}, row | {other: None}])
    refused(empty_beside, f"a column {column!r}, but {other!r} is empty where it is filled (row 2): rename")
    unread = row | {other: "z", "scope": "interaction"}
    assert read_requests(write(tmp_path / f"b{suffix}", [unread]))[0].scope == "interaction"


@pytest.mark.parametrize(("name", "meant"), [("User", "user"), ("ITEM", "item"), ("Scope", "scope")])
def test_a_single_json_line_with_a_misspelt_name_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    whole = {"user": "u", "item": "i", "scope": "interaction"}
    scope = {"User": "item", "ITEM": "user"}.get(name)
    bad = {name: whole[meant]} | {key: value for key, value in whole.items() if key != meant}
    lines = [whole, bad | ({"scope": scope} if scope else {})]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused(tmp_path / "r.jsonl", f"has a column {name!r}, but {meant!r} is empty where it is filled (row 2)")


@EACH_FORMAT
def test_other_columns_are_not_read(tmp_path: Path, suffix: str) -> None:
    others = ("score", "request_date", "request_time", "guest_id", "user_name", "rating", "source", "id")
    path = write(tmp_path / f"r{suffix}", [{"user": "u", "item": "i", **dict.fromkeys(others, "x")}])
    assert read_requests(path) == pairs(("u", "i"))


@EACH_FORMAT
def test_scopes_ids_and_empty_cells(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"item": "i", "extra": 1, "user": "u", "scope": None, "request_id": None},
        {"item": None, "extra": 2, "user": "u", "scope": "user", "request_id": "r2"},
        {"item": "i", "extra": 3, "user": "", "scope": "item", "request_id": "003"},
        {"item": "i", "extra": 4, "user": "v", "scope": "interaction", "request_id": ""},
    ]
    assert read_requests(write(tmp_path / f"r{suffix}", rows)) == [
        Request(None, "interaction", "u", "i"),
        Request("r2", "user", "u", None),
        Request("003", "item", None, "i"),
        Request(None, "interaction", "v", "i"),
    ]


@EACH_FORMAT
@pytest.mark.parametrize("scope", ["user", "item"])
def test_a_scope_column_makes_the_other_column_optional(tmp_path: Path, suffix: str, scope: str) -> None:
    (request,) = read_requests(write(tmp_path / f"r{suffix}", [{"scope": scope, scope: "x"}]))
    assert (request.scope, request.user, request.item) == (
        scope,
        *(("x", None) if scope == "user" else (None, "x")),
    )


ids = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
requests = st.one_of(
    st.builds(Request, st.none() | ids, st.just("interaction"), ids, ids),
    st.builds(Request, st.none() | ids, st.just("user"), ids, st.none()),
    st.builds(Request, st.none() | ids, st.just("item"), st.none(), ids),
)


@EACH_FORMAT
@settings(max_examples=40, deadline=None)
@given(batch=st.lists(requests, min_size=1, max_size=6))
def test_what_is_written_is_read(suffix: str, batch: list[Request]) -> None:
    rows = [{name: getattr(request, name) for name in COLUMNS} for request in batch]
    with tempfile.TemporaryDirectory() as folder:
        assert read_requests(write(Path(folder) / f"r{suffix}", rows)) == batch


def test_integers_that_pandas_made_floats_beside_empty_cells(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [3, 4], "item": [17, None], "scope": ["interaction", "user"]})
    assert frame["item"].dtype == np.float64
    frame.to_parquet(tmp_path / "r.parquet")
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    expected = [Request(None, "interaction", "3", "17"), Request(None, "user", "4", None)]
    assert read_requests(tmp_path / "r.parquet") == read_requests(tmp_path / "r.jsonl") == expected


def test_nan_is_an_empty_cell(tmp_path: Path) -> None:
    table = pa.table({"user": [5], "item": pa.array([float("nan")], pa.float64()), "scope": ["user"]})
    pq.write_table(table, tmp_path / "r.parquet")
    assert read_requests(tmp_path / "r.parquet") == [Request(None, "user", "5", None)]


def test_categories_of_pandas_are_texts(tmp_path: Path) -> None:
    pd.DataFrame({"user": ["01"], "item": ["2"]}, dtype="category").to_parquet(tmp_path / "r.parquet")
    assert read_requests(tmp_path / "r.parquet") == pairs(("01", "2"))


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "scope=user"
    folder.mkdir()
    assert read_requests(write(folder / "r.parquet", [{"user": "u", "item": "i"}])) == pairs(("u", "i"))


def test_json_lines_may_mix_kinds_and_have_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('\ufeff{"user": 42, "item": "i"}\n\n{"item": 12345678901234567890, "user": "42"}\n')
    assert read_requests(path) == pairs(("42", "i"), ("42", "12345678901234567890"))


# ------------------------------------------------------------------------------------------------- what refuses a file


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "none.csv", "does not exist: check --requests")
    (tmp_path / "folder.parquet").mkdir()
    refused(tmp_path / "folder.parquet", "does not exist: check --requests")


@pytest.mark.parametrize("name", ["r.xlsx", "r", "r.txt"])
def test_a_suffix_without_reader(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("user,item\n1,2\n")
    refused(tmp_path / name, f"the suffix {Path(name).suffix!r}", "use one of .parquet, .csv, .jsonl, .json")


@EACH_FORMAT
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"r{suffix}").touch()
    refused(tmp_path / f"r{suffix}", "is empty: give one row per deletion with columns user and item")


def test_a_file_without_rows(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user,item\n")
    (tmp_path / "r.jsonl").write_text("\n \n")
    pq.write_table(
        pa.table({"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())}), tmp_path / "r.parquet"
    )
    for suffix in (".csv", ".jsonl", ".parquet"):
        refused(tmp_path / f"r{suffix}", "holds no requests: give one row per deletion")


@EACH_FORMAT
@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({"user": "u", "movie": "i"}, "item; it has user, movie"),
        ({"item": "i"}, "user; it has item"),
        ({"User": "u", "Item": "i"}, "item, user; it has User, Item"),
        ({"scope": "user"}, "item, user; it has scope"),
    ],
)
def test_missing_columns(tmp_path: Path, suffix: str, row: dict[str, str], missing: str) -> None:
    path = write(tmp_path / f"r{suffix}", [row])
    if suffix == ".csv":  # whose first line may hold ids
        missing = f"{missing.partition(';')[0]}; it has a first line of {len(row)} values"
    refused(path, f"lacks the column(s) {missing}: rename the columns to user and item")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.parquet", b"PAR1 this is no Parquet file PAR1"),
        ("r.csv", b"user,item\n1,2\n3\n"),
        ("r.csv", b"user,item\n1,\xff\xfe\n"),
        ("r.csv", b"\xff\xfeuser,item\n1,2\n"),
        ("r.csv", b"user,item,user\n1,2,3\n"),
        ("r.jsonl", b'{"user": 1, "item": 2}\n{"user": 1, '),
        ("r.jsonl", b'[{"user": 1, "item": 2}]'),
        ("r.jsonl", b"\xff\xfe\n"),
        ("r.json", b"12\n"),
    ],
)
def test_content_that_cannot_be_parsed(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    kind = {"r.parquet": "Parquet", "r.csv": "CSV"}.get(name, "JSON lines")
    refused(tmp_path / name, f"is no readable {kind} (", "): repair it")


def test_parquet_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", [{"user": "u", "item": "i"}] * 50)
    path.write_bytes(path.read_bytes()[:-9])
    refused(path, "is no readable Parquet (", "): repair it")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"user": 1, "item": 2}\n\n{"user": 1 "item": 2}\n')
    refused(tmp_path / "r.jsonl", "(line 3: ")


def test_a_column_twice_in_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["user", "item", "user"])
    pq.write_table(table, tmp_path / "r.parquet")
    refused(tmp_path / "r.parquet", "more than one column 'user'")


@EACH_FORMAT
def test_an_unknown_scope(tmp_path: Path, suffix: str) -> None:
    rows = [{"user": "u", "item": "i", "scope": "interaction"}, {"user": "u", "item": "i", "scope": "everything"}]
    path = write(tmp_path / f"r{suffix}", rows)
    refused(path, ", row 2: the scope cell holds no known scope: use interaction, user, item")


@EACH_FORMAT
@pytest.mark.parametrize("empty", ["user", "item"])
@pytest.mark.parametrize("scope", [{}, {"scope": None}, {"scope": "interaction"}], ids=["absent", "empty", "given"])
def test_an_empty_cell_never_widens_a_request(tmp_path: Path, suffix: str, empty: str, scope: dict[str, str]) -> None:
    whole = {"user": "u", "item": "i", **scope}
    path = write(tmp_path / f"r{suffix}", [whole, {**whole, empty: None}])
    refused(path, f", row 2: the {empty} cell is empty, but scope interaction needs it", "say so in a column scope")


@EACH_FORMAT
@pytest.mark.parametrize(("scope", "other"), [("user", "item"), ("item", "user")])
def test_a_scope_without_its_cell_or_with_the_other(tmp_path: Path, suffix: str, scope: str, other: str) -> None:
    both = write(tmp_path / f"both{suffix}", [{"user": "u", "item": "i", "scope": scope}])
    refused(both, f", row 1: scope {scope} erases everything of that {scope}, but the {other} cell is filled: empty it")
    neither = write(tmp_path / f"neither{suffix}", [{scope: None, "scope": scope, "request_id": "1"}])
    refused(neither, f", row 1: the {scope} cell is empty, but scope {scope} needs it: fill it in")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (pa.array([1.5]), "a float"),
        (pa.array([float("inf")]), "a float"),
        (pa.array([2.0**53 + 2]), "a float"),
        (pa.array([True]), "a bool"),
        (pa.array([[1]]), "a list"),
        (pa.array([{"a": 1}]), "a dict"),
        (pa.array([b"x"], pa.binary()), "a bytes"),
    ],
    ids=["fraction", "infinity", "inexact", "bool", "list", "struct", "bytes"],
)
def test_a_cell_that_is_no_id(tmp_path: Path, cell: pa.Array, shown: str) -> None:
    pq.write_table(pa.table({"user": cell, "item": ["i"]}), tmp_path / "r.parquet")
    refused(tmp_path / "r.parquet", f", row 1: the user cell holds {shown} value: write an integer or a text")


@pytest.mark.parametrize("cell", ["1.5", "true", "[1]", '{"a": 1}'])
def test_a_json_value_that_is_no_id(tmp_path: Path, cell: str) -> None:
    (tmp_path / "r.jsonl").write_text(f'{{"user": 1, "item": 2}}\n{{"user": 1, "item": {cell}}}\n')
    refused(tmp_path / "r.jsonl", ", row 2: the item cell holds", ": write an integer or a text")
