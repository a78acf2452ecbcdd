"""A folder into which files of requests are put: each is taken over, and answered once, whatever dies in between.

FOLDER/NAME             put there by whoever asks (under another name first, then renamed)
FOLDER/received/NAME    taken over, durably
FOLDER/receipts/...     what became of each of its requests; the file itself, which holds ids, is then removed.
                        NAME.DIGEST.json is of the last file of this name and content, NAME.DIGEST.N.json of the Nth
                        one before: who puts the same in again asks again
FOLDER/rejected/NAME    a file that cannot be used, with a receipt that says why
"""

import json
import os
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from ifru_dist.errors import InputError
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.requests import READERS, Request, read_requests
from ifru_dist.workspace.files import make_folder, sha256_of, sync_path
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import Settled
from ifru_dist.workspace.store import utc_now

LONGEST_NAME = 200
"""Bytes of a file's name at most: that of its receipt is longer."""
RECEIVED, RECEIPTS, REJECTED = "received", "receipts", "rejected"
_FOLDERS = (RECEIVED, RECEIPTS, REJECTED)
_REFUSED = {"status": "rejected"}


@dataclass
class Delivery:
    """A file that was taken over."""

    path: Path
    name: str
    """By which the ledger knows it: a keyed digest of its name and content, and of how often the same came before."""
    requests: list[Request]
    settled: dict[int, Settled] = field(default_factory=dict)
    """By row, what became of the requests so far."""

    @property
    def received(self) -> str:
        """UTC time of the file's last change, ISO 8601, as its requests have it."""
        return self.requests[0].received

    @property
    def open(self) -> list[Request]:
        """The requests of which nothing is known yet, in their order."""
        return [request for request in self.requests if request.row not in self.settled]


class Inbox:
    """The files of a watched folder, in the order in which they came."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Make the folders in the watched one.

        Args:
            folder: the watched one.
            key: of the workspace's digests.

        Raises:
            InputError: the folder is not there, is none, or cannot be written to.
        """
        check_folder(folder)
        self._folder, self._key = folder, key
        try:
            for name in _FOLDERS:
                make_folder(folder / name)
        except OSError as error:
            raise InputError(f"--watch {folder}: {error.strerror}: name a folder that you may write to") from error
        self.deliveries: deque[Delivery] = deque()
        self._left_alone: set[Path] = set()

    def accept(self) -> None:
        """Take over what was put in.

        Taking over is renaming: after a crash a file is in one place or the other. A file whose name is in work waits.
        """
        self._tell_left_alone()
        moved = set()
        for path in _in_order(self._folder):
            target = self._folder / RECEIVED / path.name
            if not target.exists():
                self._archive_receipt(path)
                path.rename(target)
                moved.add(path.name)
        if moved:
            sync_path(self._folder / RECEIVED)
            sync_path(self._folder)
        self._read_received(new=moved)

    def go_on(self) -> None:
        """Read again what an earlier run took over: no other file can have requests that are settled."""
        self._read_received(new=frozenset())

    def settle(self, delivery: str, row: int, settled: Settled) -> None:
        """Note what became of a request."""
        next(known for known in self.deliveries if known.name == delivery).settled[row] = settled

    def answer(self) -> None:
        """Write the receipts of files whose requests are all settled, and remove the files."""
        done = [delivery for delivery in self.deliveries if not delivery.open]
        for delivery in done:
            self._write_receipt(delivery.path, _receipt(delivery))
            delivery.path.unlink()
            self.deliveries.remove(delivery)
            say(f"answered {_printable(delivery.path.name)}: {len(delivery.requests)} requests")
        if done:
            sync_path(self._folder / RECEIVED)

    def reject(self, path: Path, reason: str) -> None:
        """Lay a file aside that cannot be used, with a receipt; one that lies there under its name is not replaced."""
        reason = _printable(" ".join(reason.replace(str(path), path.name).split()))
        target = self._folder / REJECTED / path.name
        name = self._name(path)
        target = target.with_name(f"{path.stem}.{name[:12]}{path.suffix}") if target.exists() else target
        done = [_receipt(known) for known in self.deliveries if known.path == path]
        self._write_receipt(path, {"file": path.name, **(done[0] if done else {}), **_REFUSED, "reason": reason})
        path.rename(target)
        sync_path(self._folder / REJECTED)
        sync_path(self._folder / RECEIVED)
        self.deliveries = deque(delivery for delivery in self.deliveries if delivery.path != path)
        say(f"rejected {_printable(path.name)}: {reason}")

    def _tell_left_alone(self) -> None:
        """Say once of each file that will not be taken over, and why."""
        for path in self._folder.iterdir():
            reason = None if path.name.startswith(".") or path.name in _FOLDERS else _unusable(path)
            if reason is not None and path not in self._left_alone:
                self._left_alone.add(path)
                say(f"left alone: {path.name!r}: {reason}")

    def _read_received(self, new: Set[str]) -> None:
        """Read the files that were taken over and are not in work yet; the new ones were so just now."""
        known = {delivery.path.name for delivery in self.deliveries}
        for path in _in_order(self._folder / RECEIVED):
            if path.name in known:
                continue
            if path.name not in new and self._is_done(path):  # the crash came between its receipt and its removal
                path.unlink()
                sync_path(path.parent)
            else:
                self._take(path)

    def _take(self, path: Path) -> None:
        """Read a file that was taken over."""
        name = self._name(path)
        try:
            requests = [replace(request, delivery=name) for request in read_requests(path, "--watch")]
        except InputError as error:
            self.reject(path, str(error))
            return
        self.deliveries.append(Delivery(path=path, name=name, requests=requests))

    def _is_done(self, path: Path) -> bool:
        """Whether a receipt says that a file that was taken over is done."""
        receipt = self._receipt_path(path)
        return receipt.exists() and json.loads(receipt.read_text(encoding="utf-8"))["status"] == "done"

    def _archive_receipt(self, path: Path) -> None:
        """Lay the receipt of an earlier file of a name and content aside, durably: the file that comes now has none."""
        receipt = self._receipt_path(path)
        if receipt.exists():
            receipt.rename(receipt.with_suffix(f".{self._archived(receipt) + 1}.json"))
            sync_path(receipt.parent)

    def _archived(self, receipt: Path) -> int:
        """How many receipts of files of the same name and content were laid aside."""
        return next(number for number in count() if not receipt.with_suffix(f".{number + 1}.json").exists())

    def _name(self, path: Path) -> str:
        """By which the ledger knows a file; were it that of an earlier one, this one would pass for settled."""
        before = self._archived(self._receipt_path(path))
        return self._digest(path, *([before] if before else []))

    def _digest(self, path: Path, *parts: int) -> str:
        """By which a file is known again, without telling what it holds."""
        return keyed_digest(self._key, "delivery", path.name, sha256_of(path), *parts).hex()[:32]

    def _receipt_path(self, path: Path) -> Path:
        """Where the receipt of a file lies."""
        return self._folder / RECEIPTS / f"{path.name}.{self._digest(path)[:12]}.json"

    def _write_receipt(self, path: Path, content: dict[str, Any]) -> None:
        """Write a receipt durably: it appears whole or not at all."""
        target = self._receipt_path(path)
        aside = target.with_name(f".{target.name}")
        with aside.open("w", encoding="utf-8") as file:
            json.dump({**content, "finished": utc_now()}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(target)
        sync_path(target.parent)


def check_folder(folder: Path) -> None:
    """Raise InputError where there is no folder to watch; a misspelt one must not be made and then watched in vain."""
    if not folder.exists():
        raise InputError(f"--watch {folder}: there is no such folder: make it, or check its name")
    if not folder.is_dir():
        raise InputError(f"--watch {folder}: is no folder: name a folder that you may write to")


def _printable(text: str) -> str:
    """A text whose line ends and control characters are shown as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _in_order(folder: Path) -> list[Path]:
    """The request files of a folder by the time of their last change, then by name; hidden and other files wait."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".") and _unusable(path) is None]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _unusable(path: Path) -> str | None:
    """Why a file is no request file that can be taken over; None for one that is."""
    if path.suffix.lower() not in READERS:
        return f"its suffix is none of {', '.join(READERS)}"
    if path.is_symlink() or not path.is_file():
        return "it is a link or a folder: put a file there"
    try:
        size_bytes = len(path.name.encode())
    except UnicodeEncodeError:
        return "its name is no UTF-8: give it another one"
    if size_bytes > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes: give it another one"
    return None if os.access(path, os.R_OK) else "it may not be read: check its permissions"


def _receipt(delivery: Delivery) -> dict[str, Any]:
    """What became of each request of a file. It names no user and no item."""
    rows = [{"row": row, **asdict(settled)} for row, settled in sorted(delivery.settled.items())]
    counts = _counts(list(delivery.settled.values()))
    return {
        "file": delivery.path.name,
        "status": "done",
        "received": delivery.received,
        **counts,
        "requests": rows,
    }


def _counts(settled: Sequence[Settled]) -> dict[str, int]:
    """How many requests ended in each way."""
    return {
        status: sum(entry.status == status for entry in settled)
        for status in ("applied", "duplicate", "not_found", "rejected")
    }
