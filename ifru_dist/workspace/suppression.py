"""The suppression list: keyed digests of all that was erased, so that nothing of it comes back, and what was released.

An entry says in which version it was made, so that of an erasure and a release of the same the later one counts.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.workspace.files import FileEntry, Staging, check_content, open_arrow, write_table
from ifru_dist.workspace.keys import DIGEST_BYTES, keyed_digest
from ifru_dist.workspace.manifest import Manifest

_CHUNK = 1 << 16
"""Pairs whose codes are Python numbers at a time."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """An entry of the list that counts no more: someone signed up again."""

    digest: bytes
    """Keyed digest of scope, user and item."""
    reason: str
    version: int
    """The version that it made."""


def write_suppression(root: Path | Staging, digests: Collection[bytes], version: int) -> FileEntry:
    """Write the digests of what was erased in a version, sorted."""
    columns = {
        "digest": pa.array(sorted(digests), pa.binary(DIGEST_BYTES)),
        "version": pa.array([version] * len(digests), pa.int64()),
    }
    return write_table(root, "suppression/erased", columns)


def write_release(root: Path | Staging, release: Release) -> FileEntry:
    """Write what a version releases."""
    columns = {
        "digest": pa.array([release.digest], pa.binary(DIGEST_BYTES)),
        "reason": pa.array([release.reason], pa.string()),
        "version": pa.array([release.version], pa.int64()),
    }
    return write_table(root, "suppression/released", columns)


def read_releases(root: Path, released: Sequence[FileEntry]) -> list[Release]:
    """All releases of a version, oldest first."""
    return [Release(**row) for entry in released for row in open_arrow(root, entry).read_all().to_pylist()]


def read_suppressed(root: Path, suppression: Sequence[FileEntry], released: Sequence[FileEntry] = ()) -> set[bytes]:
    """The digests of what was erased and not released after that.

    Args:
        root: Folder of the workspace.
        suppression: Files of what was erased. Those of earlier releases of this program, which knew no releases of
            entries, do not say in which version.
        released: Files of what was released; without them all that was ever erased.
    """
    since = {release.digest: release.version for release in read_releases(root, released)}
    suppressed: set[bytes] = set()
    for entry in suppression:
        table = open_arrow(root, entry).read_all()
        digests = table.column("digest").to_pylist()
        if since and "version" in table.column_names:
            versions = [version or 0 for version in table.column("version").to_pylist()]
            suppressed.update(d for d, version in zip(digests, versions, strict=True) if version > since.get(d, -1))
        else:
            suppressed.update(digest for digest in digests if digest not in since)
    return suppressed


def read_checked(root: Path, manifest: Manifest) -> set[bytes]:
    """What a version suppresses, from files whose checksums are compared first.

    Raises:
        WorkspaceError: a file is missing or damaged.
    """
    for entry in (*manifest.suppression, *manifest.released):
        check_content(root, entry)
    return read_suppressed(root, manifest.suppression, manifest.released)


class SuppressionList:
    """What must not come back, asked about many ids at once; ids are texts, compared as those of requests are."""

    def __init__(self, key: bytes, digests: Collection[bytes]) -> None:
        """Take the digests as they are.

        Args:
            key: The key that they were made with.
            digests: What is suppressed.
        """
        self.digests = frozenset(digests)
        self._key = key
        self._empty = hashlib.blake2b(key=key, digest_size=DIGEST_BYTES)

    def holds_users(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Mask (n,) of the users that were erased wholly."""
        return self._held(f'["user",{_quoted(text)},null]' for text in ids)

    def holds_items(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Mask (n,) of the items that were erased wholly."""
        return self._held(f'["item",null,{_quoted(text)}]' for text in ids)

    def holds_pairs(self, users: Sequence[str], items: Sequence[str], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask (n,) of the pairs that were erased by themselves.

        Args:
            users: Ids, each once.
            items: Ids, each once.
            pairs: (n, 2) positions of the pairs' users and items in these.
        """
        first, second = [_quoted(text) for text in users], [_quoted(text) for text in items]
        parts = [np.empty(0, np.bool_)]
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK].tolist()
            parts.append(self._held(f'["interaction",{first[user]},{second[item]}]' for user, item in chunk))
        return np.concatenate(parts)

    def holds(self, user: str | None, item: str | None) -> bool:
        """Whether a user (and no item), an item (and no user), or the pair of both is on the list, by itself."""
        scope = "user" if item is None else "item" if user is None else "interaction"
        return keyed_digest(self._key, scope, user, item) in self.digests

    def _held(self, encoded: Iterable[str]) -> NDArray[np.bool_]:
        """Mask (n,) of the encodings, those of ``keyed_digest``, whose digest is on the list."""
        return np.fromiter((self._digest(text) in self.digests for text in encoded), np.bool_)

    def _digest(self, text: str) -> bytes:
        """Keyed digest of an encoding; copying a hash that has the key is faster than making one."""
        hashed = self._empty.copy()
        hashed.update(text.encode())
        return hashed.digest()


def _quoted(text: str) -> str:
    """An id as it stands in an encoding."""
    return json.dumps(text, ensure_ascii=False)
