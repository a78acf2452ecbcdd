"""How much memory preparing logs may take, and what follows: rows in a chunk, and into how many buckets rows go."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ifru_dist.errors import ConfigError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|[KMGT]i?B|[KMGT])?")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SHARE_OF_MACHINE = 0.5
_BYTES_PER_ROW = 384
"""What a row of a chunk takes while a task works on it: as text, as codes, in the order of its buckets."""
_LOADED_LATER = 96 << 20
"""Of libraries and compiled loops when they are first used."""
_WORKING_PARTS = 3
"""Of what is left one is for tasks; others are for arrays over all ids and rows, and for what allocators keep."""
_CHUNK_ROWS, _BUCKET_ROWS = range(1 << 13, 1 << 20), range(1 << 13, 1 << 19)
"""Larger ones save nothing; smaller ones would be more files than data."""
_IDS_FOR_A_ROW = 4
_MOST_BUCKETS = 8192


@dataclass(frozen=True)
class Budget:
    """What tasks may hold at a time."""

    chunk_rows: int
    """Rows that are read and coded at a time."""
    bucket_rows: int
    """Rows of a bucket, about."""

    @property
    def is_smallest(self) -> bool:
        """Whether less memory would not be less."""
        return self.chunk_rows == _CHUNK_ROWS.start

    @classmethod
    def of(cls, limit_bytes: int, threads: int) -> "Budget":
        """What fits into a limit on the whole process, part of which its libraries take already."""
        working = max(limit_bytes - resident_bytes() - _LOADED_LATER, limit_bytes // 16)
        rows = working // (_WORKING_PARTS * threads * _BYTES_PER_ROW)
        return cls(
            chunk_rows=min(max(rows, _CHUNK_ROWS.start), _CHUNK_ROWS.stop),
            bucket_rows=min(max(rows, _BUCKET_ROWS.start), _BUCKET_ROWS.stop),
        )

    def id_buckets(self, n_rows: int) -> int:
        """Buckets for the ids of so many rows: few of them are distinct, and an id takes less than a row."""
        return self.buckets(n_rows // _IDS_FOR_A_ROW)

    def buckets(self, n_rows: int) -> int:
        """Buckets for so many rows."""
        return min(max(-(-n_rows // self.bucket_rows), 1), _MOST_BUCKETS)


def limit_of(text: str | None) -> int:
    """Bytes of a size such as 2GiB, 512M or 1000000; None: half of what the machine, or its container, has.

    Raises:
        ConfigError: it is no size.
    """
    if text is None:
        return int(_memory_of_machine() * _SHARE_OF_MACHINE)
    found = _SIZE.fullmatch(text.strip())
    size = 0 if found is None else int(float(found[1]) * _UNITS[(found[2] or "").rstrip("iB")])
    if size < 1:
        raise ConfigError(f"--memory-limit {text} is no size: write bytes, or a number with KiB, MiB, GiB or TiB")
    return size


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _memory_of_machine() -> int:
    """Bytes of memory, within a container those that it may use."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control group, or no limit in it
        return physical
