"""Which worker owns which virtual partitions, balanced by edges."""

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ifru_dist.errors import ConfigError
from ifru_dist.influence.communicator import Ownership
from ifru_dist.workspace.layout import Layout


def assign_partitions(edges: NDArray[np.int64], workers: int) -> list[list[int]]:
    """Give each partition to the worker with the fewest edges so far, largest partitions first.

    Of workers with equally few, the one with the fewest partitions gets it: so none is left without, even where many
    partitions are empty.

    Args:
        edges: (partitions,) edges in each partition.
        workers: Number of workers.

    Returns:
        The partitions of each worker, ascending.

    Raises:
        ConfigError: there are more workers than partitions.
    """
    if workers > len(edges):
        raise ConfigError(
            f"--workers = {workers}: the workspace has {len(edges)} partitions, and each worker needs one at least: "
            f"ask for {len(edges)} workers or fewer, or preprocess with more --partitions"
        )
    heap = [(0, 0, worker) for worker in range(workers)]
    owned: list[list[int]] = [[] for _ in range(workers)]
    for partition in sorted(range(len(edges)), key=lambda p: (-int(edges[p]), p)):
        load, count, worker = heapq.heappop(heap)
        owned[worker].append(partition)
        heapq.heappush(heap, (load + int(edges[partition]), count + 1, worker))
    return [sorted(partitions) for partitions in owned]


def ownership_of(layout: Layout, owned: Sequence[Sequence[int]], device: torch.device) -> Ownership:
    """Owner and position of every global row, for workers that own these partitions."""
    rank = np.empty(layout.n_rows, dtype=np.int64)
    position = np.empty(layout.n_rows, dtype=np.int64)
    for worker, partitions in enumerate(owned):
        rows = rows_of(layout, partitions)
        rank[rows] = worker
        position[rows] = np.arange(len(rows))
    return Ownership(rank=torch.from_numpy(rank).to(device), position=torch.from_numpy(position).to(device))


def rows_of(layout: Layout, partitions: Sequence[int]) -> NDArray[np.int64]:
    """Global rows of some partitions: by partition, then table, then row."""
    return np.concatenate([np.empty(0, np.int64), *(layout.partition_rows(partition) for partition in partitions)])
