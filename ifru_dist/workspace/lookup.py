"""External ids to rows, for whoever asks again and again: what a look-up costs goes with what is asked for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.workspace.files import FileEntry, open_arrow
from ifru_dist.workspace.version import Version

_INTEGERS = range(-(2**63), 2**63)


class IdLookup:
    """Finds rows by ids; a table's index is made when it is first asked for, and again when its file is another."""

    def __init__(self) -> None:
        """Without any index yet."""
        self._indexes: dict[int, tuple[FileEntry, _Index]] = {}

    def find_rows(self, version: Version, table: int, ids: Sequence[str | None]) -> NDArray[np.int64]:
        """Global rows (n,) of external ids, -1 where an id is none, unknown or forgotten; as ``Version.find_rows``."""
        entry = version.manifest.ids[table]
        known, index = self._indexes.get(table, (None, None))
        if index is None or known != entry:
            index = _Index(open_arrow(version.workspace.root, entry).read_all().column("id").combine_chunks())
            self._indexes[table] = entry, index
        local = index.find(ids)
        rows = np.where(local >= 0, local + version.layout.offsets[table], -1)
        return np.where(version.are_forgotten(rows), -1, rows)


class _Index:
    """The ids of one table."""

    def __init__(self, ids: pa.Array) -> None:
        """Of ids in row order; null where a row has none any more."""
        self._integers = pa.types.is_integer(ids.type)
        self._rows = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
        values = ids.drop_null().to_numpy(zero_copy_only=False)
        self._index = pd.Index(values, dtype=np.int64 if self._integers else object)

    def find(self, ids: Sequence[str | None]) -> NDArray[np.int64]:
        """Local rows (n,), -1 where there is none."""
        if self._integers:
            numbers = [_integer(text) for text in ids]
            given = np.array([number is not None for number in numbers], dtype=bool)
            found = self._index.get_indexer(np.array([number or 0 for number in numbers], dtype=np.int64))
            found = np.where(given, found, -1)
        else:
            found = self._index.get_indexer(np.array(ids, dtype=object))
        return np.where(found >= 0, self._rows[found] if len(self._rows) else -1, -1)


def _integer(text: str | None) -> int | None:
    """The integer that a text stands for, if it is written as one is; None for any other."""
    try:
        number = int(text or "")
    except ValueError:
        return None
    return number if str(number) == text and number in _INTEGERS else None
