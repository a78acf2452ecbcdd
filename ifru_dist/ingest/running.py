"""Running tasks by Dask, a handful at a time, and saying how far they are."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from dask.base import compute
from dask.delayed import delayed
from dask.system import CPU_COUNT
from tqdm import tqdm

Scheduler = str | Callable[..., Any]
"""A scheduler's name or function, as Dask takes it."""
Result = TypeVar("Result")
_LINE_EVERY_S = 10.0
_CLUSTER_TASKS = 256
"""At a time, where Dask's scheduler is not one of this machine."""


@dataclass(frozen=True)
class Task:
    """A call that may run anywhere, and the rows that it goes through, for those who wait."""

    call: Callable[[], Any]
    rows: int


class Runner:
    """Runs tasks with a scheduler."""

    def __init__(self, scheduler: Scheduler, say: Callable[[str], None]) -> None:
        """Take Dask's scheduler, and what shows a line where the output is no terminal."""
        self._scheduler, self._say = scheduler, say
        self._at_once = 4 * self.threads if isinstance(scheduler, str) else _CLUSTER_TASKS

    def within_process(self) -> "Runner":
        """One that runs tasks in this process, whatever this one does."""
        return self if isinstance(self._scheduler, str) else Runner("threads", self._say)

    @property
    def threads(self) -> int:
        """Tasks that run at a time on this machine; those of a cluster are taken to be like it."""
        return 1 if self._scheduler == "synchronous" else CPU_COUNT

    def progress(self, phase: str, total: int) -> "Progress":
        """Shows how far a phase of so many rows is that needs no tasks."""
        return Progress(phase, total, self._say)

    def run(self, phase: str, tasks: Iterable[Task], total: int | None = None) -> Iterator[Any]:
        """Yield what tasks return, in their order; the next few are run when these were taken.

        Args:
            phase: What they do, for progress.
            tasks: The tasks.
            total: Rows of all of them; None: they are counted, which makes all tasks first.
        """
        if total is None:
            tasks = list(tasks)
            total = sum(task.rows for task in tasks)
        waiting = iter(tasks)
        progress = self.progress(phase, total)
        try:
            while some := list(islice(waiting, self._at_once)):
                # A task is one object that Dask does not look into: its arguments may be long lists.
                calls = [delayed(task.call, traverse=False)() for task in some]
                results = compute(*calls, scheduler=self._scheduler, traverse=False, optimize_graph=False)  # type: ignore[no-untyped-call]
                progress.add(sum(task.rows for task in some))
                yield from results
        finally:
            progress.close()


class Progress:
    """How many rows a phase went through, how fast, and how long it will take: a bar on a terminal, lines elsewhere."""

    def __init__(self, phase: str, total: int, say: Callable[[str], None]) -> None:
        """Begin at zero rows of so many."""
        on_terminal = sys.stderr.isatty()
        self._phase, self._total, self._done, self._say = phase, total, 0, None if on_terminal else say
        self._start = self._last = time.monotonic()
        self._bar = tqdm(total=total, desc=phase, unit=" rows", unit_scale=True, disable=not on_terminal, leave=False)

    def add(self, rows: int) -> None:
        """Note that so many rows are done."""
        self._done += rows
        self._bar.update(rows)
        now = time.monotonic()
        if self._say is not None and now - self._last >= _LINE_EVERY_S and self._done < self._total:
            self._last = now
            self._say(progress_line(self._phase, self._done, self._total, now - self._start))

    def close(self) -> None:
        """Leave the terminal in order."""
        self._bar.close()


def progress_line(phase: str, done: int, total: int, elapsed_s: float) -> str:
    """Rows done, rows per second, and the time that is left at this speed."""
    speed = done / elapsed_s
    left = round((total - done) / speed) if speed else 0
    return f"{phase}: {done:,} of {total:,} rows, {speed:,.0f} rows/s, {left // 60}:{left % 60:02} min left"
