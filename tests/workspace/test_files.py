import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import FileEntry, check_content, entry_from_json, open_arrow, write_batches, write_table


def _write(root: Path, values: list[int]) -> FileEntry:
    return write_table(root, "folder/name", {"value": np.array(values)})


def test_a_file_is_named_and_listed_by_its_content(tmp_path: Path) -> None:
    entry = _write(tmp_path, [1, 2, 3])
    content = (tmp_path / entry.path).read_bytes()
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.size_bytes == len(content)
    assert entry.path == f"folder/name-{entry.sha256[:16]}.arrow"
    assert entry_from_json(entry.as_json()) == entry
    assert open_arrow(tmp_path, entry).read_all().to_pydict() == {"value": [1, 2, 3]}


def test_the_same_content_is_one_file_and_other_content_another(tmp_path: Path) -> None:
    assert _write(tmp_path, [1]) == _write(tmp_path, [1])
    assert _write(tmp_path, [2]) != _write(tmp_path, [1])
    assert len(list((tmp_path / "folder").iterdir())) == 2


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    wrong = pa.record_batch({"other": [1]})
    with pytest.raises(pa.ArrowInvalid):
        write_batches(tmp_path, "folder/name", pa.schema([("value", pa.int64())]), [wrong])
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    entry = _write(tmp_path, [1])
    (tmp_path / entry.path).unlink()
    with pytest.raises(WorkspaceError, match=rf"{entry.path} is missing: restore the file from a backup"):
        open_arrow(tmp_path, entry)


def test_a_file_that_was_cut_off_is_named_with_the_remedy(tmp_path: Path) -> None:
    entry = _write(tmp_path, [1])
    path = tmp_path / entry.path
    path.write_bytes(path.read_bytes()[:-10])
    for check in (open_arrow, check_content):
        with pytest.raises(WorkspaceError, match=rf"{entry.path} is damaged: .* bytes where .*: restore the file"):
            check(tmp_path, entry)


def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    entry = _write(tmp_path, [1])
    path = tmp_path / entry.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=rf"{entry.path} is damaged: its SHA-256 is .*: restore the file"):
        check_content(tmp_path, entry)


def test_a_file_of_the_right_size_that_is_no_arrow_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(bytes(1000))
    entry = replace(_write(tmp_path, [1]), path="x.arrow", size_bytes=1000)
    with pytest.raises(WorkspaceError, match=r"x\.arrow is damaged .*: restore the file"):
        open_arrow(tmp_path, entry)
