"""Immutable files named by their content: written aside, synced, then renamed into place.

Two writers of the same content write the same name, so neither can harm the other; a file that no manifest lists is
a remnant of an attempt that was cut off, and is never read.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ifru_dist.errors import WorkspaceError

REMEDY = "restore the file from a backup of the workspace, or run jobs/preprocess.py and jobs/train.py anew"


@dataclass(frozen=True)
class FileEntry:
    """A file as a manifest lists it; ``path`` is relative to the workspace."""

    path: str
    size_bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """The entry as a JSON object."""
        return asdict(self)


def entry_from_json(value: dict[str, Any]) -> FileEntry:
    """The entry that ``as_json`` wrote."""
    return FileEntry(path=value["path"], size_bytes=value["size_bytes"], sha256=value["sha256"])


def write_batches(root: Path, stem: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> FileEntry:
    """Write record batches as one Arrow IPC file ``<stem>-<digest>.arrow`` below root, durably."""

    def write(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    return _place(root, stem, ".arrow", write)


def write_table(root: Path, stem: str, columns: dict[str, Any]) -> FileEntry:
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
    """Raise WorkspaceError when a listed file is missing or has another size."""
    path = root / entry.path
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing: {REMEDY}") from None
    if size != entry.size_bytes:
        raise WorkspaceError(f"{path} is damaged: {size} bytes where {entry.size_bytes} were written: {REMEDY}")


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
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(root: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> FileEntry:
    """Write a file aside, sync it, and rename it to its content's name."""
    folder = (root / stem).parent
    make_folder(folder)
    aside = folder / f".writing-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        digest = sha256_of(aside)
        final = root / f"{stem}-{digest[:16]}{suffix}"
        size = aside.stat().st_size
        aside.rename(final)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(folder)
    return FileEntry(path=final.relative_to(root).as_posix(), size_bytes=size, sha256=digest)
