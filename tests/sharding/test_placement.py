"""Partitions to workers: each once, nobody without, balanced; and the ownership of rows that follows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.errors import ConfigError
from ifru_dist.sharding.placement import assign_partitions, ownership_of, rows_of
from ifru_dist.workspace.layout import Layout


@st.composite
def loads(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Edges of some partitions, many of them empty, and a number of workers."""
    edges = draw(st.lists(st.just(0) | st.integers(0, 5) | st.integers(0, 10**7), min_size=1, max_size=40))
    return np.array(edges, np.int64), draw(st.integers(1, len(edges)))


@given(loads())
def test_each_partition_has_one_worker_and_each_worker_a_partition(case: tuple[np.ndarray, int]) -> None:
    edges, workers = case
    owned = assign_partitions(edges, workers)
    assert len(owned) == workers
    assert all(owned)
    assert sorted(partition for partitions in owned for partition in partitions) == list(range(len(edges)))
    assert all(partitions == sorted(partitions) for partitions in owned)
    assert assign_partitions(edges.copy(), workers) == owned


@given(loads())
def test_no_worker_has_more_than_its_share_and_one_partition(case: tuple[np.ndarray, int]) -> None:
    edges, workers = case
    sums = [int(edges[partitions].sum()) for partitions in assign_partitions(edges, workers)]
    assert max(sums) * workers <= edges.sum() + workers * edges.max()


def test_equal_partitions_are_spread_evenly() -> None:
    counts = [len(partitions) for partitions in assign_partitions(np.full(256, 100), 3)]
    assert sorted(counts) == [85, 85, 86]
    assert [len(partitions) for partitions in assign_partitions(np.zeros(6, np.int64), 3)] == [2, 2, 2]


def test_a_large_partition_stands_alone() -> None:
    assert assign_partitions(np.array([1, 90, 1, 1]), 2) == [[1], [0, 2, 3]]


def test_more_workers_than_partitions() -> None:
    with pytest.raises(ConfigError, match=r"--workers = 4: the workspace has 3 partitions.*ask for 3 workers"):
        assign_partitions(np.ones(3, np.int64), 4)


@given(st.integers(1, 9), st.tuples(st.integers(0, 20), st.integers(0, 20)), st.data())
def test_every_row_has_its_place_with_its_owner(partitions: int, sizes: tuple[int, int], data: st.DataObject) -> None:
    layout = Layout(partitions=partitions, sizes=sizes)
    owned = assign_partitions(np.arange(partitions), data.draw(st.integers(1, partitions)))
    ownership = ownership_of(layout, owned, torch.device("cpu"))
    seen = np.zeros(layout.n_rows, dtype=int)
    for rank, mine in enumerate(owned):
        for position, row in enumerate(rows_of(layout, mine)):
            seen[row] += 1
            assert (int(ownership.rank[row]), int(ownership.position[row])) == (rank, position)
    assert (seen == 1).all()
