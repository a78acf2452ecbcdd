from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import InputError
from ifru_dist.ingest import sources
from ifru_dist.ingest.sources import Columns, MalformedRecord, find_files, open_file, read_fragment

_COLUMNS = Columns(user="u", item="i", value="r", timestamp=None)


def _read(path: Path) -> tuple[list[tuple[str, ...]], list[MalformedRecord]]:
    malformed: list[MalformedRecord] = []
    rows = [
        tuple(row.values())
        for fragment in open_file(path).fragments()
        for batch in read_fragment(fragment, _COLUMNS, malformed, 1000)
        for row in batch.to_pylist()
    ]
    return rows, malformed


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("u,i,r\n")


def test_a_folder_gives_its_files_by_name_without_hidden_ones(tmp_path: Path) -> None:
    _touch(tmp_path, "b.csv", "a/z.csv", "c.PARQUET", "_SUCCESS", ".part.crc")
    assert [path.relative_to(tmp_path).as_posix() for path in find_files(str(tmp_path), "--logs")] == [
        "a/z.csv",
        "b.csv",
        "c.PARQUET",
    ]


def test_a_glob_gives_the_files_that_match(tmp_path: Path) -> None:
    _touch(tmp_path, "day-2.csv", "day-1.csv", "other.csv")
    found = find_files(str(tmp_path / "day-*.csv"), "--logs")
    assert [path.name for path in found] == ["day-1.csv", "day-2.csv"]


@pytest.mark.parametrize("place", ["missing.csv", "*.parquet", "empty"])
def test_nothing_found_is_an_error_that_names_the_option(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"--valid .* matches no file"):
        find_files(str(tmp_path / place), "--valid")


def test_a_file_of_another_kind_is_never_left_out_in_silence(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "b.csv.gz")
    for place in (tmp_path, tmp_path / "b.csv.gz"):
        with pytest.raises(InputError, match=r"b\.csv\.gz is neither \.parquet nor \.csv"):
            find_files(str(place), "--logs")


def test_a_parquet_file_is_read_by_row_groups_that_know_their_first_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": range(7), "i": range(7), "r": range(7)}), tmp_path / "a.parquet", row_group_size=3)
    fragments = open_file(tmp_path / "a.parquet").fragments()
    assert [(fragment.row_group, fragment.first_row) for fragment in fragments] == [(0, 0), (1, 3), (2, 6)]
    assert _read(tmp_path / "a.parquet")[0] == [(k, k, k) for k in range(7)]


@pytest.mark.parametrize("block_size", [64, 1 << 20])
def test_malformed_records_are_noted_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_size: int
) -> None:
    monkeypatch.setattr(sources, "CSV_BLOCK_BYTES", block_size)
    lines = ["1,2" if number % 5 == 3 else f"{number},{number},0012" for number in range(40)]
    (tmp_path / "a.csv").write_text("u,i,r\n" + "\n".join(lines) + "\n")
    rows, malformed = _read(tmp_path / "a.csv")
    assert rows == [(str(number), str(number), "0012") for number in range(40) if number % 5 != 3]
    assert malformed == [MalformedRecord(number, "1,2") for number in range(3, 40, 5)]


def test_csv_with_marks_breaks_quotes_and_more_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfr,title,u,i\r\n5,"two\r\nlines, quoted",a,"x,y"\r\n4,,b,"q""q"\r\n')
    assert open_file(tmp_path / "a.csv").schema.names == ["r", "title", "u", "i"]
    assert _read(tmp_path / "a.csv") == ([("a", "x,y", "5"), ("b", 'q"q', "4")], [])


def test_quoted_line_breaks_may_lie_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CSV_BLOCK_BYTES", 64)
    (tmp_path / "a.csv").write_text("u,i,title,r\n" + '1,2,"a\nb\nc",3\n' * 50)
    assert _read(tmp_path / "a.csv") == ([("1", "2", "3")] * 50, [])


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_csv_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=r"a\.csv is empty"):
        open_file(tmp_path / "a.csv")


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really PAR1", b"u,i,r\n1,2,3\n"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet") as caught:
        open_file(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


def test_damage_inside_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"u": range(1000), "i": range(1000), "r": range(1000)})
    pq.write_table(pa.Table.from_pandas(frame), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[100:600] = bytes(500)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
        _read(path)


@pytest.mark.parametrize("n_rows_before", [0, 20_000])
def test_text_that_is_not_utf8_is_named(tmp_path: Path, n_rows_before: int) -> None:
    (tmp_path / "a.csv").write_bytes(b"u,i,r\n" + b"1,2,3\n" * n_rows_before + b"J\xfcrgen,1,2\n")
    with pytest.raises(InputError, match=r"a\.csv cannot be read as CSV \(.*text that is not UTF-8"):
        _read(tmp_path / "a.csv")


def test_a_quote_that_never_closes_over_many_blocks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CSV_BLOCK_BYTES", 64)
    (tmp_path / "a.csv").write_text('u,i,r\n"1,2,3\n' + "1,2,3\n" * 100)
    with pytest.raises(InputError, match="look for an unclosed quote"):
        _read(tmp_path / "a.csv")


@pytest.mark.parametrize("dictionary", [True, False])
def test_text_of_a_parquet_file_that_is_no_unicode_is_refused(tmp_path: Path, dictionary: bool) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"u": ["person-one", "person-two"], "i": [1, 2], "r": [3.0, 4.0]})
    pq.write_table(table, path, compression="none", use_dictionary=dictionary, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"person-two", b"person-\xc3\x28o"))
    with pytest.raises(
        InputError, match=r"a\.parquet cannot be read as Parquet .*: write or copy the file anew"
    ) as caught:
        _read(path)
    assert "person" not in str(caught.value)


def test_a_changed_page_of_a_parquet_file_with_checksums_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"u": ["person-one", "person-two"], "i": [1, 2], "r": [3.0, 4.0]})
    pq.write_table(table, path, compression="none", write_statistics=False, write_page_checksum=True)
    assert len(_read(path)[0]) == 2
    path.write_bytes(path.read_bytes().replace(b"person-two", b"person-twO"))
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
        _read(path)
