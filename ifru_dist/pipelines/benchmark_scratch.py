"""A copy of a workspace to erase from, made without reading the data, and gone afterwards.

The copy holds hard links to the files of one version. That is safe because a workspace never writes into a file that it
has: new files are written aside and renamed, so a name in the copy may come to stand for another file, but no file that
the workspace shares is changed. What is written in place, the lock, and the manifests are the copy's own.
"""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

PREFIX = ".ifru-benchmark-"
"""How the folder of a copy is named; one that stays behind is of a job that was killed, and may be deleted."""


@contextmanager
def scratch_copy(version: Version, folder: Path) -> Iterator[Version]:
    """The newest version of a workspace as that of a copy, which is removed when the context ends, however it ends.

    Args:
        version: the newest version.
        folder: where the copy goes. On the file system of the workspace it takes no room; elsewhere, or where links
            are not allowed, its files are copied.

    Raises:
        ConfigError: nothing can be written there.
        WorkspaceError: a file of the version has gone meanwhile.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    except OSError as error:
        raise ConfigError(
            f"--scratch = {folder}: {error.strerror}: give a folder that can be written, best on the file system of "
            "the workspace, and on a cluster one that all nodes share"
        ) from error
    try:
        copy = Workspace(place / "workspace")
        _copy_manifests(version.workspace, copy)
        for entry in version.manifest.files():
            _link(version.workspace.root / entry.path, copy.root / entry.path)
        yield open_version(copy, version.manifest.version)
    finally:
        shutil.rmtree(place)


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM end the job as an exception does, so that what it made is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _copy_manifests(source: Workspace, copy: Workspace) -> None:
    """All manifests: a version's says what came before it, and by which digest."""
    copy.versions_folder.mkdir(parents=True)
    for number in source.versions():
        shutil.copyfile(source.manifest_path(number), copy.manifest_path(number))


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there can be none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    except FileNotFoundError:
        raise WorkspaceError(
            f"{source} has gone: another job is taking files away: run the benchmark when it has ended"
        ) from None
