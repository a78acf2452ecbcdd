"""The workspace folder: its versions, the exclusive commit, and the lock that one writing job holds."""

import fcntl
import hashlib
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from ifru_dist.errors import VersionConflictError, WorkspaceBusyError, WorkspaceError
from ifru_dist.workspace.files import REMNANT, FileEntry, check_content, check_size, make_folder, sync_path
from ifru_dist.workspace.manifest import Manifest, decode, encode

_LOCK_POLL_S = 0.1
"""How often a lock that another job holds is tried."""


class Workspace:
    """A folder of immutable versions; the highest one is current."""

    def __init__(self, root: Path) -> None:
        """Name a workspace folder; nothing is read or written yet."""
        self.root = root.absolute()
        self._newest = 0  # when it was last asked for; 0: it was not

    @property
    def versions_folder(self) -> Path:
        """Where the manifests lie."""
        return self.root / "versions"

    @property
    def default_key_file(self) -> Path:
        """Key of the audit digests when no other place is given: beside the workspace, never in it."""
        return self.root.with_name(self.root.name + ".key")

    def versions(self) -> list[int]:
        """Numbers of the versions, ascending; empty where no workspace is. The cost goes with how many there are."""
        if not self.versions_folder.is_dir():
            return []
        names = [path.stem for path in self.versions_folder.glob("*.json") if path.stem.isdecimal()]
        return sorted(int(name) for name in names if name == self.manifest_path(int(name)).stem)

    def newest(self) -> int:
        """Number of the current version, whoever committed it; only the first call's cost goes with how many there are.

        Versions are numbered without gaps and their manifests stay, also when they are vacuumed: one that comes is the
        next number. Where the newest one that was seen is gone, the folder is another by now and is read again.

        Raises:
            WorkspaceError: no workspace, or one of its manifests is missing.
        """
        number = self._newest
        if number == 0 or not self.has(number):
            number = self._whole_sequence()[-1]
        while self.has(number + 1):
            number += 1
        self._newest = number
        return number

    def has(self, version: int) -> bool:
        """Whether the manifest of a version is there; not where the folder cannot be read.

        The folder is opened for it: on NFS that asks the server, where a name by itself may be remembered as missing.
        """
        try:
            folder = os.open(self.versions_folder, os.O_RDONLY)
        except OSError:
            return False
        try:
            return stat.S_ISREG(os.stat(self.manifest_path(version).name, dir_fd=folder).st_mode)
        except OSError:
            return False
        finally:
            os.close(folder)

    def manifest_path(self, version: int) -> Path:
        """File of one version's manifest."""
        return self.versions_folder / f"{version:06d}.json"

    def manifest(self, version: int | None = None) -> Manifest:
        """Read the manifest of a version, by default the current one.

        Raises:
            WorkspaceError: no workspace, no such version, or a damaged manifest.
        """
        newest = self.newest()
        number = newest if version is None else version
        path = self.manifest_path(number)
        if number > newest or not path.is_file():
            versions = self._whole_sequence()
            if number not in versions:
                raise WorkspaceError(f"{self.root} has no version {number}: it has {versions[0]} to {versions[-1]}")
        manifest = decode(path.read_bytes(), str(path))
        if manifest.version != number:
            raise WorkspaceError(f"{path} holds version {manifest.version}: restore it from a backup of the workspace")
        return manifest

    def _whole_sequence(self) -> list[int]:
        """Numbers of the versions, ascending; raise WorkspaceError where there is none, or one is missing between."""
        versions = self.versions()
        if not versions:
            raise WorkspaceError(f"{self.root} holds no workspace: make one with jobs/preprocess.py")
        if gap := next((before + 1 for before, after in pairwise(versions) if after != before + 1), None):
            raise WorkspaceError(f"{self.manifest_path(gap)} is missing: restore it from a backup of the workspace")
        return versions

    def digest(self, version: int) -> str:
        """SHA-256 of a version's manifest file."""
        return hashlib.sha256(self.manifest_path(version).read_bytes()).hexdigest()

    def check_retained(self, manifest: Manifest) -> None:
        """Raise WorkspaceError when the files of a version were vacuumed."""
        current = self.newest()
        if manifest.version == current:
            return
        retained_from = self.manifest(current).retained_from
        if manifest.version < retained_from:
            raise WorkspaceError(
                f"version {manifest.version} of {self.root} was vacuumed: its files are deleted, only its manifest is "
                f"left: name a version from {retained_from} to {current}"
            )

    def check_parent(self, manifest: Manifest) -> None:
        """Raise WorkspaceError when the version before is not the one that this version was made from."""
        before = manifest.version - 1
        if manifest.parent is None:
            return
        if not self.manifest_path(before).is_file():
            self._whole_sequence()  # which may begin with this version, but not go on after a gap
        elif self.digest(before) != manifest.parent:
            raise WorkspaceError(
                f"{self.manifest_path(before)} is not what version {manifest.version} was made from: it was altered; "
                "restore it from a backup"
            )

    def verify(self, manifest: Manifest, *, content: bool = True, known: Collection[FileEntry] = ()) -> None:
        """Check that every file of a version is there and whole.

        Args:
            manifest: The version.
            content: Compare checksums; otherwise only sizes.
            known: Files that need no check, as they were checked before.

        Raises:
            WorkspaceError: naming the first file that is missing or damaged, and the remedy.
        """
        check, checked = check_content if content else check_size, frozenset(known)
        for entry in manifest.files():
            if entry not in checked:
                check(self.root, entry)

    def commit(self, manifest: Manifest) -> None:
        """Make a version current. Its files must be in place; the manifest appears whole or not at all.

        Raises:
            VersionConflictError: another writer made this version first.
        """
        make_folder(self.versions_folder)
        aside = self.versions_folder / f"{REMNANT}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with aside.open("wb") as file:
                file.write(encode(manifest))
                file.flush()
                os.fsync(file.fileno())
            os.link(aside, self.manifest_path(manifest.version))
        except FileExistsError:
            raise VersionConflictError(
                f"version {manifest.version} of {self.root} was committed by another job: nothing of this job's work "
                "was kept; run it again"
            ) from None
        finally:
            aside.unlink(missing_ok=True)
        sync_path(self.versions_folder)

    @contextmanager
    def lock(self, job: str, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the workspace for writing until the context ends or the process dies.

        Args:
            job: for whoever finds it held.
            wait_s: how long to wait where another job holds it.

        Raises:
            WorkspaceBusyError: naming the job, host and process that hold it.
            WorkspaceError: the folder cannot be made or written.
        """
        with self._lock_file() as file:
            try:
                _acquire(file, time.monotonic() + wait_s)
            except BlockingIOError:
                file.seek(0)
                raise WorkspaceBusyError(
                    f"{self.root} is in use by {_holder(file.read())}: wait until it ends, or stop it"
                ) from None
            except OSError as error:
                raise WorkspaceError(
                    f"{self.root} cannot be locked ({error}): its file system needs flock, as NFS 4 and local ones have"
                ) from error
            file.truncate(0)
            json.dump({"job": job, "host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()}, file)
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def _lock_file(self) -> TextIO:
        """The lock file, opened for reading and writing."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return (self.root / "lock").open("a+")
        except OSError as error:
            raise WorkspaceError(
                f"{self.root} cannot be used as a workspace ({error.strerror}): name a folder that you may write to"
            ) from error


def utc_now() -> str:
    """The time now, UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _acquire(file: TextIO, deadline: float) -> None:
    """Lock a file for this process alone; raise BlockingIOError when it is still held at the deadline."""
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LOCK_POLL_S)


def _holder(text: str) -> str:
    """The lock file's content in words."""
    try:
        holder: dict[str, Any] = json.loads(text)
        return f"job {holder['job']} on {holder['host']}, process {holder['pid']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another job"
