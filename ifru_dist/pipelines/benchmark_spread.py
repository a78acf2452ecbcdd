"""How the work of a batch spreads over any number of workers: it follows from where the rows lie."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ifru_dist.models.factory import build_model
from ifru_dist.sharding.placement import assign_partitions
from ifru_dist.workspace.version import Version

_PARTITIONS_PER_WORKER = 4
"""Where a workspace has fewer partitions than workers, a projection supposes so many for each."""

_MARKS = 1 << 28
"""Bytes at most to mark what arrives where."""


class Spread:
    """The edges of a version, and who would own them."""

    def __init__(self, version: Version) -> None:
        """Read the training interactions."""
        self._layout, self._graph_edges = version.layout, version.partition_edges()
        self._rows = version.train().rows
        self._degrees = np.bincount(self._rows.ravel(), minlength=version.layout.n_rows)
        self.whole_graph = len(build_model(version.model.spec).layer_weights) > 1
        """Whether residuals read all edges, whatever the batch, as those of graph models do."""

    def partitions(self, workers: int) -> int:
        """Partitions that so many workers need: those of the workspace unless these are too few."""
        own = self._layout.partitions
        return own if workers <= own else _PARTITIONS_PER_WORKER * workers

    def batch_share(self, endpoints: NDArray[np.int64], workers: int) -> float:
        """The slowest worker's share of the edges at some global rows (m,)."""
        edges = self._degrees[endpoints]
        load = np.bincount(self._owner(workers)[endpoints], weights=edges, minlength=workers)
        return float(load.max() / max(1, edges.sum()))

    def graph_share(self, workers: int) -> float:
        """The slowest worker's share of all edges."""
        return self.batch_share(np.arange(self._layout.n_rows), workers)

    def held_edges(self, workers: int) -> float:
        """Edges of the worker that holds the most."""
        return self.graph_share(workers) * float(self._degrees.sum())

    def received_rows(self, endpoints: NDArray[np.int64], workers: int) -> NDArray[np.int64]:
        """(workers,) distinct rows of other workers at the far ends of each worker's edges at global rows (m,).

        Of models that read the whole graph all rows count as endpoints.
        """
        if workers == 1:
            return np.zeros(1, dtype=np.int64)
        if self.whole_graph:
            return self._received_everywhere(workers)
        chosen = np.zeros(self._layout.n_rows, dtype=bool)
        chosen[endpoints] = True
        return self._received(chosen, workers)

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the benchmark
    def _received_everywhere(self, workers: int) -> NDArray[np.int64]:
        """(workers,) the same with all rows as endpoints."""
        return self._received(np.ones(self._layout.n_rows, dtype=bool), workers)

    def _received(self, chosen: NDArray[np.bool_], workers: int) -> NDArray[np.int64]:
        """(workers,) the same with the rows of a mask (N,) as endpoints."""
        owner, n_rows = self._owner(workers), self._layout.n_rows
        tables = range(self._rows.shape[1])
        if workers * n_rows <= _MARKS:  # marking is some ten times as quick as sorting
            marks = np.zeros(workers * n_rows, dtype=bool)
            for near in tables:
                marks[self._arrivals(chosen, owner, near)] = True
            return np.count_nonzero(marks.reshape(workers, n_rows), axis=1)
        keys = np.unique(np.concatenate([np.unique(self._arrivals(chosen, owner, near)) for near in tables]))
        return np.bincount(keys // n_rows, minlength=workers)

    def _arrivals(self, chosen: NDArray[np.bool_], owner: NDArray[np.int64], near: int) -> NDArray[np.int64]:
        """Worker times rows plus row, (k,), for what lies beside the chosen rows of one table at other workers.

        The same may come several times.
        """
        rows = self._rows[chosen[self._rows[:, near]]]
        worker, far = owner[rows[:, near]], np.delete(rows, near, axis=1)
        keys = worker[:, None] * self._layout.n_rows + far
        return keys[owner[far] != worker[:, None]]

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the benchmark
    def _owner(self, workers: int) -> NDArray[np.int64]:
        """(N,) the worker of each row."""
        partitions, layout = self.partitions(workers), self._layout
        part = layout.local(np.arange(layout.n_rows)) % partitions
        edges = self._graph_edges
        if partitions != layout.partitions:
            edges = np.bincount(part, weights=self._degrees, minlength=partitions).astype(np.int64)
        rank = np.empty(partitions, dtype=np.int64)
        for worker, owned in enumerate(assign_partitions(edges, workers)):
            rank[owned] = worker
        return rank[part]
