"""Vacuuming: the files that no retained version needs are deleted; manifests stay, as they hold no id."""

from collections.abc import Iterable
from pathlib import Path

from ifru_dist.workspace.files import REMNANT, FileEntry, sync_path
from ifru_dist.workspace.store import Workspace

DATA_FOLDERS = ("ids", "split", "examples", "graph", "tables", "requests", "suppression")
"""Where the files lie that manifests list. Whatever else is in them is of no version."""
_ASIDE_FOLDERS = ("versions", "quarantine")
"""Where files are written aside, too."""

SPILL_FOLDER = f"{REMNANT}rows"
"""Where jobs that read logs sort rows on disk; it is gone when they end, unless they were killed."""


def retained_files(workspace: Workspace, retained_from: int) -> list[FileEntry]:
    """Every file that a version from this one on lists, each once."""
    kept = [number for number in workspace.versions() if number >= retained_from]
    return list({entry.path: entry for number in kept for entry in workspace.manifest(number).files()}.values())


def unlisted_files(workspace: Workspace, listed: Iterable[FileEntry]) -> list[Path]:
    """Files in the data folders that are not listed, and what attempts left that were cut off, in order.

    The caller holds the lock, so no writer's attempt is still under way.
    """
    root, names = workspace.root, {entry.path for entry in listed}
    inner = [path for folder in (*DATA_FOLDERS, SPILL_FOLDER) for path in (root / folder).rglob("*")]
    found = [path for path in inner if _is_file(path) and path.relative_to(root).as_posix() not in names]
    aside = [path for folder in _ASIDE_FOLDERS for path in (root / folder).glob(f"{REMNANT}*")]
    return sorted([*found, *(path for path in aside if _is_file(path))])


def delete_files(paths: Iterable[Path]) -> None:
    """Delete files durably."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in sorted(folders):
        sync_path(folder)


def _is_file(path: Path) -> bool:
    """Whether a path is no folder; a link is what would be deleted, not what it names."""
    return path.is_symlink() or path.is_file()
