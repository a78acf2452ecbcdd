import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import (
    FileEntry,
    Staging,
    UnkeptStaging,
    check_content,
    open_arrow,
    write_batches,
    write_table,
)


def _write(root: Path, values: list[int]) -> FileEntry:
    return write_table(root, "folder/name", {"value": np.array(values)})


def test_a_file_is_named_and_listed_by_its_content(tmp_path: Path) -> None:
    entry = _write(tmp_path, [1, 2, 3])
    content = (tmp_path / entry.path).read_bytes()
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.size_bytes == len(content)
    assert entry.path == f"folder/name-{entry.sha256[:16]}.arrow"
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


def test_an_unkept_file_is_listed_as_a_kept_one_and_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(aside))
    with UnkeptStaging(tmp_path / "ws") as staging:
        entry = write_table(staging, "folder/name", {"value": np.array([1, 2])})
    assert not (tmp_path / "ws").exists()
    assert list(aside.iterdir()) == []
    assert entry == _write(tmp_path / "ws", [1, 2])


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


def test_a_link_that_leads_out_of_the_workspace_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    entry = _write(root, [1])
    (root / entry.path).rename(tmp_path / "elsewhere.arrow")
    (root / entry.path).symlink_to(tmp_path / "elsewhere.arrow")
    for check in (open_arrow, check_content):
        with pytest.raises(WorkspaceError, match=rf"{entry.path} is no file inside the workspace"):
            check(root, entry)
    (root / entry.path).unlink()
    (root / "folder").rmdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere.arrow").rename(tmp_path / entry.path)
    (root / "folder").symlink_to(tmp_path / "folder")
    with pytest.raises(WorkspaceError, match=rf"{entry.path} is no file inside the workspace"):
        check_content(root, entry)


def test_a_workspace_that_is_itself_behind_a_link_is_read(tmp_path: Path) -> None:
    entry = _write(tmp_path / "ws", [1])
    (tmp_path / "link").symlink_to(tmp_path / "ws")
    check_content(tmp_path / "link", entry)


@pytest.mark.parametrize("instead", ["circle", "folder", "file"])
def test_what_is_no_file_is_named(tmp_path: Path, instead: str) -> None:
    entry = _write(tmp_path, [1])
    path = tmp_path / entry.path
    path.unlink()
    if instead == "circle":
        path.symlink_to(path)
    elif instead == "folder":
        path.mkdir()
    else:
        path.parent.rmdir()
        path.parent.write_text("")
    with pytest.raises(WorkspaceError, match=rf"{entry.path} .*: restore the file"):
        check_content(tmp_path, entry)


def test_files_of_one_commit_appear_together_at_its_end(tmp_path: Path) -> None:
    with Staging(tmp_path) as staging:
        entries = [write_table(staging, f"folder{number}/name", {"value": np.arange(number)}) for number in range(3)]
        assert not [path for path in tmp_path.rglob("*.arrow")]
    for number, entry in enumerate(entries):
        assert entry == write_table(tmp_path / "alone", f"folder{number}/name", {"value": np.arange(number)})
        check_content(tmp_path, entry)
    assert len([path for path in tmp_path.glob("folder*/*")]) == 3


def test_of_a_commit_that_fails_no_file_is_left(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    with staging:
        write_table(staging, "folder/one", {"value": [1]})
    with pytest.raises(pa.ArrowInvalid), staging:  # noqa: PT012
        write_table(staging, "folder/two", {"value": [2]})
        write_batches(staging, "folder/three", pa.schema([("value", pa.int64())]), [pa.record_batch({"other": [1]})])
    assert [path.name.split("-")[0] for path in (tmp_path / "folder").iterdir()] == ["one"]
