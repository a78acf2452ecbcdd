"""The suppression list: what stands in it, what was released, and asking about many ids at once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import Staging, write_table
from ifru_dist.workspace.folding import fold_rows
from ifru_dist.workspace.keys import DIGEST_BYTES, copy_key, create_key, keyed_digest
from ifru_dist.workspace.suppression import (
    Release,
    SuppressionList,
    read_releases,
    read_suppressed,
    write_release,
    write_suppression,
)

KEY = b"k" * 32
ODD_IDS = ["42", '4"2', "ü\\", "0042", "a,b", "null", "line\u2028"]


def digest(user: str | None, item: str | None = None) -> bytes:
    return keyed_digest(KEY, "user" if item is None else "item" if user is None else "interaction", user, item)


def released(root: Path, user: str, version: int) -> object:
    return write_release(root, Release(digest=digest(user), reason="again", version=version))


def test_of_an_erasure_and_a_release_of_the_same_the_later_one_counts(tmp_path: Path) -> None:
    erased = [write_suppression(tmp_path, [digest("1"), digest("2"), digest("3")], 5)]
    files = [released(tmp_path, "1", 6), released(tmp_path, "2", 7)]
    assert read_suppressed(tmp_path, erased, files) == {digest("3")}
    erased.append(write_suppression(tmp_path, [digest("1")], 8))
    assert read_suppressed(tmp_path, erased, files) == {digest("1"), digest("3")}
    assert read_suppressed(tmp_path, erased) == {digest("1"), digest("2"), digest("3")}
    files.append(released(tmp_path, "1", 9))
    assert read_suppressed(tmp_path, erased, files) == {digest("3")}
    assert [(entry.version, entry.reason) for entry in read_releases(tmp_path, files)] == [
        (6, "again"),
        (7, "again"),
        (9, "again"),
    ]


def test_folded_files_say_what_the_files_said_also_of_releases_that_knew_no_version(tmp_path: Path) -> None:
    without = {"digest": pa.array(sorted([digest("1"), digest("2")]), pa.binary(DIGEST_BYTES))}
    erased = [write_table(tmp_path, "suppression/erased", without), write_suppression(tmp_path, [digest("1")], 8)]
    files = [released(tmp_path, "1", 6), released(tmp_path, "2", 7)]
    assert read_suppressed(tmp_path, erased[:1], files) == set()
    with Staging(tmp_path) as staging:
        folded = [fold_rows(staging, erased)]
        folded_releases = [fold_rows(staging, files)]
    assert (
        read_suppressed(tmp_path, folded, folded_releases) == {digest("1")} == read_suppressed(tmp_path, erased, files)
    )


def test_many_ids_are_known_as_one_by_one() -> None:
    digests = {digest("42"), digest(None, '4"2'), digest("ü\\", "a,b"), digest("null", "line\u2028")}
    listed = SuppressionList(KEY, digests)
    assert listed.holds_users(ODD_IDS).tolist() == [digest(text) in digests for text in ODD_IDS]
    assert listed.holds_items(ODD_IDS).tolist() == [digest(None, text) in digests for text in ODD_IDS]
    pairs = np.stack(np.divmod(np.arange(len(ODD_IDS) ** 2), len(ODD_IDS)), axis=1)
    expected = [digest(ODD_IDS[user], ODD_IDS[item]) in digests for user, item in pairs]
    assert listed.holds_pairs(ODD_IDS, ODD_IDS, pairs).tolist() == expected
    assert sum(expected) == 2
    assert [listed.holds(ODD_IDS[user], ODD_IDS[item]) for user, item in pairs] == expected
    assert (listed.holds("42", None), listed.holds(None, "42"), listed.holds(None, '4"2')) == (True, False, True)


def test_no_pairs_are_no_pairs() -> None:
    assert SuppressionList(KEY, {digest("1")}).holds_pairs([], [], np.empty((0, 2), np.int64)).tolist() == []


def test_a_key_is_copied_once_and_never_over_another(tmp_path: Path) -> None:
    key = create_key(tmp_path / "a.key")
    copy_key(tmp_path / "b.key", key)
    copy_key(tmp_path / "b.key", key)
    assert create_key(tmp_path / "b.key") == key
    assert (tmp_path / "b.key").stat().st_mode & 0o777 == 0o600
    create_key(tmp_path / "c.key")
    with pytest.raises(WorkspaceError, match="another key"):
        copy_key(tmp_path / "c.key", key)
