"""The examples of each row, read where the graph files hold them: what a reader costs goes with the rows it asks for.

The files are mapped, not read, so that memory holds the pages of the rows that were asked for. Erased examples stay in
the files until they are compacted; here they are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import REMEDY, FileEntry, open_arrow
from ifru_dist.workspace.graph import DEGREES, edge_schema
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.mapped import count_edges, read_edges

_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Incidence:
    """Edges of some rows in CSR form, in the order of ``rows``."""

    rows: NDArray[np.int64]
    """(n,) global rows."""
    indptr: NDArray[np.int64]
    """(n + 1,)."""
    others: NDArray[np.int64]
    """(edges, fields - 1) global rows of the example in all tables but that of the edge's row, in their order."""
    label: NDArray[np.float64]
    """(edges,)."""
    example: NDArray[np.int64]
    """(edges,) id of the example."""

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Edges of each row, (n,)."""
        return np.diff(self.indptr)

    def keep_edges(self, keep: NDArray[np.bool_]) -> "Incidence":
        """The same rows with only the edges that a mask (edges,) selects."""
        counts = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return Incidence(self.rows, counts[self.indptr], self.others[keep], self.label[keep], self.example[keep])


class MappedIncidence:
    """The edges of all rows of some partitions, by partition, then table, then row, as the files hold them."""

    def __init__(
        self,
        root: Path,
        layout: Layout,
        graph: Sequence[FileEntry],
        degrees: Sequence[FileEntry],
        partitions: Sequence[int],
        n_examples: int,
    ) -> None:
        """Map the files of a workspace under ``root``, whose examples have ids under ``n_examples``.

        Raises:
            WorkspaceError: one of them is missing or no graph file.
        """
        self._root, self._n_examples = root, n_examples
        batches = [(p, t) for p in partitions for t in range(len(layout.tables))]
        edges = [_Batches(root, entry, edge_schema(layout)) for entry in graph]
        counts = [_Batches(root, entry, DEGREES) for entry in degrees]
        stored = [np.empty(0, np.int32), *(counts[t].columns(p)[0].to_numpy() for p, t in batches)]
        self.rows: NDArray[np.int64] = np.concatenate(
            [np.empty(0, np.int64), *(layout.partition_rows(partition) for partition in partitions)]
        )
        """(n,) global rows."""
        self._stored = np.concatenate([[0], np.cumsum(np.concatenate(stored), dtype=np.int64)])
        sizes = [layout.partition_size(t, p) for p, t in batches]
        self._first_rows = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._pieces = [edges[t].columns(p) for p, t in batches]  # which keeps the maps open
        self._check()
        self._places = _places(self._pieces, len(layout.tables) + 1)
        others = [layout.other_tables(t) for _, t in batches]
        self._offsets, self._sizes = (
            np.array([[of[other] for other in tables] for tables in others], np.int64).reshape(
                -1, len(layout.tables) - 1
            )
            for of in (layout.offsets, layout.sizes)
        )
        self._erased: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._left = np.diff(self._stored)

    def erase(self, examples: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> None:
        """Leave out the examples with some ids (k,) from now on.

        Args:
            examples: their ids.
            positions: of all rows that have such an example; None: not known, so that all edges are read for it.
        """
        if len(self._erased) == 0:
            self._erased = np.zeros(self._n_examples, dtype=bool)  # zeros cost no pass
        self._erased[examples] = True
        positions = np.arange(len(self.rows)) if positions is None else positions
        self._left[positions] = -1  # not known to be whole
        self._left[positions] = self._counted(positions, None, None)

    def counts(self, bound: int | None = None, positions: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Edges (m,) whose examples are left and have ids under a bound, of rows at some positions or of all rows.

        Where there is a bound, the edges are read.
        """
        positions = np.arange(len(self.rows)) if positions is None else positions
        return self._left[positions] if bound is None else self._counted(positions, bound, None)

    def of(self, positions: NDArray[np.int64], bound: int | None = None, near: _Mask | None = None) -> Incidence:
        """The edges of the rows at some positions (m,), ascending, in the order of the files.

        Args:
            positions: among ``rows``.
            bound: examples with ids from here on are left out; None: none.
            near: mask (N,) over global rows; where one is given, only edges with another end in it.

        Raises:
            WorkspaceError: an edge names an example or a row that there is not.
        """
        counts = self._counted(positions, bound, near)
        indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        others = np.empty((indptr[-1], self._offsets.shape[1]), dtype=np.int64)
        label, example = np.empty(indptr[-1]), np.empty(indptr[-1], dtype=np.int64)
        found = (indptr, others, label, example)
        wrong = read_edges(*self._asked(positions, bound, near), self._sizes, self._n_examples, *found)
        if wrong:
            raise WorkspaceError(f"graph files of {self._root} name rows or examples that there are not: {REMEDY}")
        return Incidence(self.rows[positions], indptr, others, label, example)

    def whole(self, bound: int | None = None) -> Incidence:
        """The edges of all rows."""
        return self.of(np.arange(len(self.rows)), bound)

    def _check(self) -> None:
        """Raise WorkspaceError where the files do not hold as many edges as they say: nothing else may be read."""
        if len(self._stored) != len(self.rows) + 1:
            raise WorkspaceError(f"graph files of {self._root} count the edges of other rows: {REMEDY}")
        counted = np.diff(self._stored[self._first_rows])
        held = [len(piece[-1]) for piece in self._pieces]
        if counted.tolist() != held or (np.diff(self._stored) < 0).any():
            said = f"the counts beside them say {counted.sum()}"
            raise WorkspaceError(f"graph files of {self._root} hold {sum(held)} edges, {said}: {REMEDY}")

    def _counted(self, positions: NDArray[np.int64], bound: int | None, near: _Mask | None) -> NDArray[np.int64]:
        """Edges of each of some rows that ``of`` reads, (m,)."""
        counts = np.empty(len(positions), dtype=np.int64)
        count_edges(*self._asked(positions, bound, near), counts)
        return counts

    def _asked(self, positions: NDArray[np.int64], bound: int | None, near: _Mask | None) -> tuple[Any, ...]:
        """Where some rows' edges lie, and which of them are wanted, as the loops take it."""
        piece = np.searchsorted(self._first_rows, positions, side="right") - 1
        start = self._stored[positions] - self._stored[self._first_rows[piece]]
        length = self._stored[positions + 1] - self._stored[positions]
        whole = (self._left[positions] == length) & (bound is None)
        return (
            *(piece, start, length, whole, self._places, self._offsets, self._erased),
            np.iinfo(np.int64).max if bound is None else bound,
            near is not None,
            np.zeros(0, dtype=bool) if near is None else near,
        )


class _Batches:
    """The record batches of a mapped file."""

    def __init__(self, root: Path, entry: FileEntry, schema: pa.Schema) -> None:
        self._path, self._file = root / entry.path, open_arrow(root, entry)
        if not self._file.schema.equals(schema):
            raise WorkspaceError(f"{self._path} has columns {self._file.schema.names} of other kinds: {REMEDY}")

    def columns(self, partition: int) -> list[pa.Array]:
        """Those of one partition."""
        try:
            return self._file.get_batch(partition).columns
        except (pa.ArrowException, OSError, ValueError) as error:
            raise WorkspaceError(f"{self._path} is damaged ({error}): {REMEDY}") from error


def _places(pieces: list[list[pa.Array]], columns: int) -> NDArray[np.int64]:
    """(pieces, columns) address in memory of the first number of each column of each piece; 0 where it has none."""
    places = np.zeros((len(pieces), columns), dtype=np.int64)
    for index, piece in enumerate(pieces):
        for column, values in enumerate(piece):
            if len(values):
                places[index, column] = values.to_numpy().__array_interface__["data"][0]
    return places
