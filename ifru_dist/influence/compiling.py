"""Compiling loops by numba, and keeping them on disk for as long as no file changes that they are made of.

numba asks only whether the file of the function itself has changed. Loops have steps of other files inlined, and would
go on computing with those of an earlier release; here they are kept for a digest of all of these files.
"""

import hashlib
from pathlib import Path
from typing import Any

from numba import njit

_SOURCES = ("edge_loops.py", "edge_losses.py", "pair_loops.py", "row_vectors.py")
_FOLDER = Path(__file__).parent
_DIGEST = hashlib.sha256(b"\0".join((_FOLDER / name).read_bytes() for name in _SOURCES)).hexdigest()


def compiled(function: Any) -> Any:
    """Decorate a loop: it is compiled at its first use for each kind of arguments."""
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    kept = dispatcher._cache._cache_file  # numba has no public way to say what a function depends on
    kept._source_stamp = (kept._source_stamp, _DIGEST)
    return dispatcher
