"""What Linux tells of processes of this machine: their memory, and how long their threads stood in line for a core."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_NS = 1e-9

Delays = Mapping[tuple[int, int], float]
"""Seconds that each thread (process, thread) could have run in, but had to wait for a core, since it began."""


def resident_bytes(process: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def delays(processes: Sequence[int]) -> Delays:
    """How long each thread of some processes has stood in line."""
    found = {}
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
                found[process, int(thread.name)] = int((thread / "schedstat").read_text().split()[1]) * _NS
    return found


def longest_delay(before: Delays, after: Delays) -> float:
    """Seconds that the thread which stood in line the longest did so in between."""
    return max(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
