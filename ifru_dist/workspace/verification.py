"""Is a workspace what was written? Every manifest, their chain, every file and the key; all that is wrong is named."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import REMEDY, FileEntry, check_content
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.manifest import Manifest, decode
from ifru_dist.workspace.shapes import check_shapes
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.vacuum import unlisted_files

_FROM_BACKUP = "restore it from a backup of the workspace"


@dataclass(frozen=True)
class Damage:
    """One file that is not what it was, or is gone."""

    file: str
    """Below the workspace, or the path of the key file."""
    problem: str
    """In words, with the remedy."""


@dataclass
class Verification:
    """What a look at a whole workspace found."""

    manifests: dict[int, Manifest]
    """Those that can be read, by version."""
    digest: str
    """SHA-256 of the newest manifest's file: all before it is chained to it, nothing after it."""
    damages: list[Damage] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    """Files of no kept version, such as remnants of an attempt that was cut off; they are never read."""
    files: int = 0
    """Files whose content was compared with their checksum, manifests not counted."""
    size_bytes: int = 0

    @property
    def newest(self) -> Manifest:
        """The newest manifest that can be read."""
        return self.manifests[max(self.manifests)]

    def is_whole(self, entry: FileEntry) -> bool:
        """Whether nothing is wrong with a file."""
        return all(damage.file != entry.path for damage in self.damages)


def verify_workspace(workspace: Workspace, key_file: Path) -> Verification:
    """Check every manifest, every file of every version that is kept, and the key.

    Nothing is written and no lock is taken: a job that works meanwhile may delete or add files.

    Raises:
        WorkspaceError: there is no workspace, or none of its manifests can be read.
    """
    found = _read_manifests(workspace)
    _check_chain(workspace, found)
    kept = [manifest for number, manifest in found.manifests.items() if number >= found.newest.retained_from]
    _check_files(workspace, kept, found)
    _check_key(workspace, key_file, found)
    listed = [entry for manifest in kept for entry in manifest.files()]
    found.unlisted = [path.relative_to(workspace.root).as_posix() for path in unlisted_files(workspace, listed)]
    return found


def _read_manifests(workspace: Workspace) -> Verification:
    """Every manifest from the first to the newest; those that are gone or damaged are named."""
    numbers = workspace.versions() or [workspace.manifest().version]  # the latter says that there is none
    found = Verification({}, "", _missing(workspace, numbers))
    for number in numbers:
        path = workspace.manifest_path(number)
        name = _name(workspace, path)
        try:
            content = path.read_bytes()
            found.digest = hashlib.sha256(content).hexdigest()
            manifest = decode(content, name)
            if manifest.version == number:
                found.manifests[number] = manifest
            else:
                found.damages.append(Damage(name, f"{name} holds version {manifest.version}: {_FROM_BACKUP}"))
        except WorkspaceError as error:
            found.damages.append(Damage(name, str(error)))
        except OSError as error:
            found.damages.append(Damage(name, f"{name} cannot be read ({error.strerror}): {_FROM_BACKUP}"))
    if not found.manifests:
        problems = "; ".join(damage.problem for damage in found.damages)
        raise WorkspaceError(f"{workspace.root} has no manifest that can be read ({problems})")
    return found


def _missing(workspace: Workspace, numbers: list[int]) -> list[Damage]:
    """The manifests that the numbers of the others, ascending, say are missing; those side by side as one."""
    damages = []
    for before, after in pairwise([0, *numbers]):
        gap = [_name(workspace, workspace.manifest_path(number)) for number in {before + 1, after - 1}]
        if after > before + 1:
            damages.append(Damage(min(gap), f"{' to '.join(sorted(gap))} is missing: {_FROM_BACKUP}"))
    return damages


def _check_chain(workspace: Workspace, found: Verification) -> None:
    """Each manifest was made from the one before, and knows the same key."""
    broken = {damage.file for damage in found.damages}
    for number, manifest in found.manifests.items():
        name, before = (_name(workspace, workspace.manifest_path(version)) for version in (number, number - 1))
        if number == 1:
            if manifest.parent is not None:
                found.damages.append(Damage(name, f"{name} was made from a version before it: {_FROM_BACKUP}"))
        elif number - 1 in found.manifests and workspace.digest(number - 1) != manifest.parent and before not in broken:
            problem = f"{before} is not what version {number} was made from: one of the two was altered or replaced"
            found.damages.append(Damage(before, f"{problem}: {_FROM_BACKUP}"))
        if manifest.key_fingerprint != found.newest.key_fingerprint:
            found.damages.append(Damage(name, f"{name} knows another key than the newest version: {_FROM_BACKUP}"))


def _check_files(workspace: Workspace, kept: list[Manifest], found: Verification) -> None:
    """Each listed file once, however many versions list it; then whether the newest version's fit its manifest."""
    seen: dict[str, FileEntry] = {}
    for manifest in kept:
        for entry in manifest.files():
            first = seen.setdefault(entry.path, entry)
            if first != entry:
                problem = f"{entry.path} is listed with another size or checksum by version {manifest.version}"
                found.damages.append(Damage(entry.path, f"{problem} than before it: {_FROM_BACKUP}"))
    for entry in seen.values():
        found.damages += _damages(entry.path, check_content, workspace.root, entry)
    found.files, found.size_bytes = len(seen), sum(entry.size_bytes for entry in seen.values())
    if all(map(found.is_whole, found.newest.files())):
        name = _name(workspace, workspace.manifest_path(found.newest.version))
        found.damages += _damages(name, check_shapes, workspace.root, found.newest)


def _damages(name: str, check: Callable[..., object], *arguments: object) -> Iterator[Damage]:
    """The damage that a check finds, if it does."""
    try:
        check(*arguments)
    except WorkspaceError as error:
        yield Damage(name, str(error))
    except OSError as error:
        yield Damage(name, f"{name} cannot be read ({error.strerror}): {REMEDY}")


def _check_key(workspace: Workspace, key_file: Path, found: Verification) -> None:
    """The key is there, and the workspace's."""
    expected = found.newest.key_fingerprint
    if expected is not None:
        found.damages += _damages(str(key_file), load_key, key_file, expected)


def _name(workspace: Workspace, path: Path) -> str:
    """A path as it is told: below the workspace."""
    return path.relative_to(workspace.root).as_posix()
