from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import InputError
from ifru_dist.training.id_lists import read_id_list


def parquet(folder: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), folder / "item_ids.parquet")


def test_the_lists_of_lightgcn_pytorch(tmp_path: Path) -> None:
    (tmp_path / "user_list.txt").write_text('org_id remap_id\n-FLns_A"b 1\n007 0\nü,x 2\n')
    (tmp_path / "item_list.txt").write_text("org_id remap_id freebase_id\r\n30 0 m.1\r\n10 1 m.2\r\n")
    users, items = (read_id_list(tmp_path, table) for table in ("user", "item"))
    assert users.path == tmp_path / "user_list.txt"
    assert users.ids.tolist() == ["007", '-FLns_A"b', "ü,x"]
    assert items.ids.tolist() == ["30", "10"]


def test_a_csv_keeps_the_spelling_of_ids(tmp_path: Path) -> None:
    (tmp_path / "user_ids.csv").write_text('row,name,id\n1,ann,007\n0,bob,"a, b"\n2,cy,NA\n')
    assert read_id_list(tmp_path, "user").ids.tolist() == ["a, b", "007", "NA"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([30, 10, 20], pa.int32()), [10, 20, 30]),
        (pa.array(["30", "10", "020"]), ["10", "020", "30"]),
        (pa.array(["30", "10", "020"]).dictionary_encode(), ["10", "020", "30"]),
    ],
)
def test_a_parquet_file_of_integers_or_text(tmp_path: Path, ids: pa.Array, expected: list[int | str]) -> None:
    parquet(tmp_path, id=ids, row=pa.array([2, 0, 1], pa.uint8()), more=pa.array([1.5, 2.5, 3.5]))
    read = read_id_list(tmp_path, "item").ids
    assert read.tolist() == expected
    assert read.dtype.kind in "iU"


def test_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "user_ids.csv").write_text("id,row\n")
    assert read_id_list(tmp_path, "user").ids.shape == (0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org_id remap_id\na 0\nb 0\n", "its 2 rows must be numbered 0 to 1, each once, .* 0 stands where 1 should be"),
        ("org_id remap_id\na 0\nb 2\n", "in ascending order 2 stands where 1 should be: write one line for each row"),
        ("org_id remap_id\na 1\nb 2\n", "in ascending order 1 stands where 0 should be"),
        ("org_id remap_id\na -1\nb 0\n", "in ascending order -1 stands where 0 should be"),
        ("org_id remap_id\na b 0\n", r"cannot be read \(.*Expected 2 columns, got 3.*\): it needs the columns org_id"),
        ("org_id remap_id\na x\n", r"cannot be read \(.*int64.*\)"),
        ("org_id remap_id\na \n", "rows have type int64 and 1 nulls: write whole numbers from 0 on"),
        ("id row\na 0\n", r"cannot be read \(.*org_id.*\): it needs the columns org_id and remap_id"),
        ("", r"cannot be read \(.*\): it needs the columns org_id and remap_id"),
    ],
)
def test_unusable_text_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "user_list.txt").write_text(text)
    with pytest.raises(InputError, match=f"user_list.txt: .*{message}") as raised:
        read_id_list(tmp_path, "user")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": pa.array([1, None]), "row": pa.array([0, 1])}, "1 ids are null: name every row"),
        ({"id": pa.array([1.0, 2.0]), "row": pa.array([0, 1])}, "ids have type double: write them as integers or"),
        ({"id": pa.array([2**63 + 1, 0], pa.uint64()), "row": pa.array([0, 1])}, "cannot be read"),
        ({"id": pa.array([1, 2]), "row": pa.array([0.0, 1.0])}, "rows have type double and 0 nulls: write whole"),
        ({"id": pa.array([1, 2]), "row": pa.array([0, None])}, "rows have type int64 and 1 nulls"),
        ({"id": pa.array([1, 2])}, "cannot be read .*it needs the columns id and row"),
    ],
)
def test_unusable_parquet_lists(tmp_path: Path, columns: dict[str, pa.Array], message: str) -> None:
    parquet(tmp_path, **columns)
    with pytest.raises(InputError, match=f"item_ids.parquet: .*{message}"):
        read_id_list(tmp_path, "item")


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "item_ids.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"item_ids.parquet: the list of ids cannot be read"):
        read_id_list(tmp_path, "item")


def test_a_folder_has_one_list_of_a_table(tmp_path: Path) -> None:
    must = r"must hold one of user_list.txt, user_ids.csv, user_ids.parquet, but holds"
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=f"--from-ids = {folder}: {must} none of them"):
            read_id_list(folder, "user")
    for name in ("user_list.txt", "user_ids.csv"):
        (tmp_path / name).write_text("id,row\n")
    with pytest.raises(InputError, match=f"{must} user_list.txt and user_ids.csv"):
        read_id_list(tmp_path, "user")


def test_rows_stand_in_the_order_of_their_numbers_whatever_the_order_of_the_lines(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(500)
    lines = "".join(f"id{row * 3} {row}\n" for row in order)
    (tmp_path / "user_list.txt").write_text("org_id remap_id\n" + lines)
    assert read_id_list(tmp_path, "user").ids.tolist() == [f"id{row * 3}" for row in range(500)]
