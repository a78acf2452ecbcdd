"""What a process that solves batch after batch does with its memory: it keeps what it will need again."""

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 << 20
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, where its C library is glibc.

    Otherwise every vector of a solve is fresh memory, whose first touch costs as much as the arithmetic on it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def settle_objects() -> None:
    """Take the objects that are there out of garbage collection, which would otherwise go through all the modules.

    In a process that has loaded torch and pyarrow a full collection takes a fifth of a second, in the middle of a
    batch. Called when what will stay has been loaded.
    """
    gc.collect()
    gc.freeze()
