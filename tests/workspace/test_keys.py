import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.keys import DIGEST_BYTES, KEY_BYTES, create_key, keyed_digest, load_key

_PARTS = st.lists(st.one_of(st.none(), st.integers(), st.text()), max_size=4)
_KEY = bytes(range(KEY_BYTES))


def test_a_new_key_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ws.key"
    key = create_key(path)
    assert len(key) == KEY_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key


def test_a_key_that_is_there_is_kept(tmp_path: Path) -> None:
    assert create_key(tmp_path / "a.key") == create_key(tmp_path / "a.key")
    assert create_key(tmp_path / "b.key") != create_key(tmp_path / "a.key")


def test_jobs_that_make_one_key_at_once_end_with_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(create_key, [tmp_path / "a.key"] * 40))
    assert len(set(keys)) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "a.key"]


def test_a_missing_key_names_file_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"a\.key is missing: restore it, or name its place with --key-file"):
        load_key(tmp_path / "a.key")


@pytest.mark.parametrize("content", [b"", b"abc", b"zz" * 32, b"ab" * 31, b"\xff\xfe" * 32])
def test_a_file_without_a_key_is_refused_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    for read in (load_key, create_key):
        with pytest.raises(WorkspaceError, match=r"a\.key holds no 32-byte key"):
            read(tmp_path / "a.key")
    assert (tmp_path / "a.key").read_bytes() == content


@given(_PARTS, _PARTS)
def test_digests_are_equal_for_equal_parts_only(first: list[str | int | None], second: list[str | int | None]) -> None:
    assert len(keyed_digest(_KEY, *first)) == DIGEST_BYTES
    assert (keyed_digest(_KEY, *first) == keyed_digest(_KEY, *second)) == (first == second)


def test_digests_depend_on_the_key_and_on_where_parts_end() -> None:
    assert keyed_digest(_KEY, "a", "b") != keyed_digest(_KEY[::-1], "a", "b")
    assert keyed_digest(_KEY, "ab", "c") != keyed_digest(_KEY, "a", "bc")
    assert keyed_digest(_KEY, "1", None) != keyed_digest(_KEY, 1, None)
