"""Who owns which edges of a batch, against counting them one by one."""

from pathlib import Path

import numpy as np
import pytest

from ifru_dist.pipelines import benchmark_spread
from ifru_dist.pipelines.benchmark_spread import Spread
from ifru_dist.sharding.placement import assign_partitions
from tests.pipelines.small import SIZES, small_interactions, small_workspace

ROWS = small_interactions().rows
PARTITIONS = 7
ENDS = np.unique(ROWS[:25])


def owners(workers: int, edges: np.ndarray, partitions: int) -> list[int]:
    """The worker of each global row: row r of a table lies in partition r % partitions."""
    rank = {p: worker for worker, owned in enumerate(assign_partitions(edges, workers)) for p in owned}
    return [rank[row % partitions] for size in SIZES for row in range(size)]


def edges_by_partition(partitions: int) -> np.ndarray:
    edges = np.zeros(partitions, dtype=np.int64)
    for user, item in ROWS:
        edges[user % partitions] += 1
        edges[(item - SIZES[0]) % partitions] += 1
    return edges


@pytest.mark.parametrize("workers", [1, 2, 5, 7])
@pytest.mark.parametrize("model", ["mf", "lightgcn"])
@pytest.mark.parametrize("marks", [1 << 28, 0])
def test_edges_and_arriving_rows_are_those_that_one_counts(
    tmp_path: Path, workers: int, model: str, marks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_spread, "_MARKS", marks)
    spread = Spread(small_workspace(tmp_path / "ws", partitions=PARTITIONS, name=model))
    owner = owners(workers, edges_by_partition(PARTITIONS), PARTITIONS)
    whole = model == "lightgcn"
    load, everything, arriving = [0] * workers, [0] * workers, [set() for _ in range(workers)]
    for pair in ROWS.tolist():
        for near, far in (pair, pair[::-1]):
            everything[owner[near]] += 1
            load[owner[near]] += near in ENDS
            if (whole or near in ENDS) and owner[far] != owner[near]:
                arriving[owner[near]].add(far)
    assert spread.whole_graph == whole
    assert spread.batch_share(ENDS, workers) == pytest.approx(max(load) / sum(load))
    assert spread.held_edges(workers) == pytest.approx(max(everything))
    assert spread.graph_share(workers) == pytest.approx(max(everything) / sum(everything))
    assert spread.received_rows(ENDS, workers).tolist() == [len(rows) for rows in arriving]


def test_more_workers_than_partitions_suppose_finer_ones(tmp_path: Path) -> None:
    spread = Spread(small_workspace(tmp_path / "ws", partitions=PARTITIONS))
    assert [spread.partitions(workers) for workers in (1, 7, 8, 64)] == [7, 7, 32, 256]
    degrees = np.bincount(ROWS.ravel(), minlength=sum(SIZES))
    assert spread.batch_share(ENDS, 64) == pytest.approx(_largest(degrees, 256) / degrees[ENDS].sum())


def _largest(degrees: np.ndarray, partitions: int) -> int:
    owner = np.array(owners(64, edges_by_partition(partitions), partitions))
    return max(int(degrees[ENDS][owner[ENDS] == worker].sum()) for worker in range(64))
