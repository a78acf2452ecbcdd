"""Immutable files named by their content: written aside, synced, then renamed into place.

Two writers of the same content write the same name, so neither can harm the other; a file that no manifest lists is
a remnant of an attempt that was cut off, and is never read.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import AfterValidator, Field

from ifru_dist.errors import WorkspaceError
from ifru_dist.models.spec import KNOWN_FIELDS_ONLY

REMEDY = "restore the file from a backup of the workspace, or make the workspace anew from logs without what was erased"
REMNANT = ".writing-"
"""How the name of a file begins until it is whole; one that stays behind is of an attempt that was cut off."""
_SYNCS_AT_ONCE = 16
LONGEST_PATH = 1024
"""Characters of a listed path at most."""


def _inner_path(path: str) -> str:
    """The path, if it says where a file lies below the workspace, in one way."""
    parts = path.split("/")
    if len(path) > LONGEST_PATH or not path.isprintable() or "\\" in path or {"", ".", ".."}.intersection(parts):
        raise ValueError("must be the path of a file inside the workspace, by plain names")
    return path


@dataclass(frozen=True)
class FileEntry:
    """A file as a manifest lists it; ``path`` is relative to the workspace."""

    __pydantic_config__ = KNOWN_FIELDS_ONLY
    path: Annotated[str, AfterValidator(_inner_path)]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: str


class Staging:
    """Files of one commit: each is written aside at once, and all are synced and renamed together at the end.

    Syncs wait for the disk side by side, so several files cost little more than one. As a context it puts the files in
    place when it ends, or removes them after an error.
    """

    def __init__(self, root: Path) -> None:
        """Files below a workspace's folder; nothing is written yet."""
        self.root = root
        self._written: list[tuple[Path, Path]] = []

    def write(self, stem: str, suffix: str, write: Callable[[Path], None]) -> FileEntry:
        """Let ``write`` fill a file aside; it is listed by the name ``<stem>-<digest><suffix>`` that it will get."""
        folder = (self.root / stem).parent
        make_folder(folder)
        aside = folder / f"{REMNANT}{os.getpid()}-{secrets.token_hex(4)}"
        self._written.append((aside, aside))  # to be removed, should it fail
        write(aside)
        entry = _entry(stem, suffix, aside)
        self._written[-1] = (aside, self.root / entry.path)
        return entry

    def place(self) -> None:
        """Make all files durable, under their names."""
        if not self._written:
            return
        with ThreadPoolExecutor(min(len(self._written), _SYNCS_AT_ONCE)) as pool:
            list(pool.map(sync_path, [aside for aside, _ in self._written]))
            for aside, final in self._written:
                aside.rename(final)
            list(pool.map(sync_path, {final.parent for _, final in self._written}))
        self._written = []

    def __enter__(self) -> Self:
        """The files to be."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the files in place, or remove them."""
        try:
            if kind is None:
                self.place()
        finally:
            for aside, _ in self._written:
                aside.unlink(missing_ok=True)


class UnkeptStaging(Staging):
    """Files that are named as if they were written, and kept nowhere: each is gone once its content is known."""

    def write(self, stem: str, suffix: str, write: Callable[[Path], None]) -> FileEntry:
        """Let ``write`` fill a file in the system's temporary folder, and list it by the name that it would get."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{suffix}"
            write(path)
            return _entry(stem, suffix, path)


def _entry(stem: str, suffix: str, path: Path) -> FileEntry:
    """How a file is listed: by the name ``<stem>-<digest><suffix>``, which follows from its content."""
    digest = sha256_of(path)
    return FileEntry(path=f"{stem}-{digest[:16]}{suffix}", size_bytes=path.stat().st_size, sha256=digest)


def write_batches(root: Path | Staging, stem: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> FileEntry:
    """Write record batches as one Arrow IPC file ``<stem>-<digest>.arrow`` below root, durably.

    With a ``Staging`` the file is durable and under its name when that is placed.
    """

    def write(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    if isinstance(root, Staging):
        return root.write(stem, ".arrow", write)
    with Staging(root) as alone:
        return alone.write(stem, ".arrow", write)


def write_table(root: Path | Staging, stem: str, columns: dict[str, Any]) -> FileEntry:
    """Write columns of one length as an Arrow IPC file with a single record batch."""
    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in columns.values()], names=list(columns))
    return write_batches(root, stem, batch.schema, [batch])


def open_arrow(root: Path, entry: FileEntry) -> pa.ipc.RecordBatchFileReader:
    """Open a listed Arrow file as a memory map.

    Raises:
        WorkspaceError: the file is missing, has another size than listed, or is no Arrow file.
    """
    path = root / entry.path
    check_size(root, entry)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path), "r"))
    except (pa.ArrowInvalid, OSError) as error:
        raise WorkspaceError(f"{path} is damaged ({error}): {REMEDY}") from error


def check_size(root: Path, entry: FileEntry) -> None:
    """Raise WorkspaceError when a listed file is missing, lies outside the workspace, or has another size."""
    path = root / entry.path
    try:
        size = path.stat().st_size
        is_inside = _lies_in(root, path) and path.is_file()
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing: {REMEDY}") from None
    except OSError as error:  # a folder that is a file now, a circle of links, no permission
        raise WorkspaceError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
    if not is_inside:
        raise WorkspaceError(f"{path} is no file inside the workspace: {REMEDY}")
    if size != entry.size_bytes:
        raise WorkspaceError(f"{path} is damaged: {size} bytes where {entry.size_bytes} were written: {REMEDY}")


def _lies_in(root: Path, path: Path) -> bool:
    """Whether a file lies in a folder, wherever links lead; folders are followed once, not for each of their files."""
    if path.is_symlink():
        return path.resolve().is_relative_to(root.resolve())
    return _resolved(path.parent).is_relative_to(_resolved(root))


@lru_cache(maxsize=64)
def _resolved(folder: Path) -> Path:
    """Where a folder is."""
    return folder.resolve()


def check_content(root: Path, entry: FileEntry) -> None:
    """Raise WorkspaceError when a listed file is missing or its content is not what was written."""
    check_size(root, entry)
    digest = sha256_of(root / entry.path)
    if digest != entry.sha256:
        raise WorkspaceError(
            f"{root / entry.path} is damaged: its SHA-256 is {digest[:12]}..., not {entry.sha256[:12]}...: {REMEDY}"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder durably; its parent may be missing, too."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
