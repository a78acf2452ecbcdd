"""Deletion requests as they come: batches by size and age from a watched folder, until a signal says to stop."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from types import FrameType

from ifru_dist.errors import GuardError
from ifru_dist.pipelines.erasing import Eraser
from ifru_dist.pipelines.inbox import Inbox
from ifru_dist.pipelines.requests import Request
from ifru_dist.pipelines.unlearn_report import BatchResult
from ifru_dist.workspace.ledger import read_deliveries

_POLL_S = 0.2
"""How often the folder is looked at."""


class Watch:
    """Erases what is put into a folder, one batch after the other."""

    def __init__(
        self,
        eraser: Eraser,
        inbox: Inbox,
        *,
        max_batch: int,
        max_wait_s: float,
        on_batch: Callable[[BatchResult], None],
    ) -> None:
        """Go on where an earlier run was cut off.

        Args:
            eraser: of the workspace.
            inbox: of the folder.
            max_batch: requests in a batch at most.
            max_wait_s: how long the oldest request waits for others to come.
            on_batch: called with the result of each batch, after it is committed.
        """
        self._eraser, self._inbox, self._on_batch = eraser, inbox, on_batch
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        self._waiting_since: float | None = None
        self._recover()

    def run(self, stop: threading.Event, *, until_empty: bool) -> None:
        """Erase batches until the event is set, between two of them, or, if wanted, until nothing is left.

        Raises:
            IfruError: a batch could not be erased; what was taken over is tried again by the next run.
        """
        while not stop.is_set():
            self._inbox.accept()
            self._inbox.answer()
            batch = self._due(now=until_empty)
            if batch:
                self._erase(batch)
            elif until_empty and not self._inbox.deliveries:
                return
            else:
                stop.wait(_POLL_S)

    def _recover(self) -> None:
        """Know again which requests of the files that lie there were committed before a crash."""
        self._inbox.go_on()
        manifest, root = self._eraser.version.manifest, self._eraser.version.workspace.root
        names = [delivery.name for delivery in self._inbox.deliveries]
        for (name, row), settled in read_deliveries(root, manifest.requests, names, self._eraser.ledger).items():
            self._inbox.settle(name, row, settled)

    def _due(self, *, now: bool) -> list[Request]:
        """The next batch, if it is large or old enough."""
        waiting = list(islice(chain.from_iterable(file.open for file in self._inbox.deliveries), self._max_batch))
        if not waiting:
            self._waiting_since = None
            return []
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        old = time.monotonic() - self._waiting_since >= self._max_wait_s
        return waiting if now or old or len(waiting) == self._max_batch else []

    def _erase(self, batch: list[Request]) -> None:
        """Erase a batch; where a guard refuses it, file by file, so that only the file that is too much is rejected."""
        self._waiting_since = None
        try:
            result = self._eraser.erase(batch)
        except GuardError as error:
            self._erase_apart(batch, error)
            return
        self._settle(result)
        self._inbox.answer()
        self._on_batch(result)

    def _settle(self, result: BatchResult) -> None:
        """Note what became of the requests of a batch; of a rejected one it is no answer that it was applied once."""
        for entry in result.routed.entries:
            settled = self._eraser.ledger.settled(entry)
            settled = replace(settled, version=None) if entry.status == "rejected" else settled
            self._inbox.settle(entry.delivery, entry.row, settled)

    def _erase_apart(self, batch: list[Request], error: GuardError) -> None:
        """The requests of a batch that a guard refused, one file after the other."""
        names = dict.fromkeys(request.delivery for request in batch)
        if len(names) == 1:
            (delivery,) = (file for file in self._inbox.deliveries if file.name in names)
            result = self._eraser.reject(delivery.open, str(error))
            self._settle(result)
            self._inbox.reject(delivery.path, str(error))
            self._on_batch(result)
            return
        for name in names:
            self._erase([request for request in batch if request.delivery == name])


@contextmanager
def stopped_by_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set inside the context, instead of ending the process."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
