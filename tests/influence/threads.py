"""Workers as threads of one process: the gang's exchanges without processes, for many quick cases."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

from ifru_dist.influence.communicator import GatherPlan, Ownership, order_by_owner

Result = TypeVar("Result")


class _Meeting:
    """Where threads lay down something each and take what all have laid down."""

    def __init__(self, world_size: int) -> None:
        self._barrier = Barrier(world_size, timeout=60)
        self._laid: list[Any] = [None] * world_size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._laid[rank] = value
        self._barrier.wait()
        everyone = list(self._laid)
        self._barrier.wait()
        return everyone

    def abort(self) -> None:
        self._barrier.abort()


class ThreadCommunicator:
    """See ``ifru_dist.influence.communicator.Communicator``."""

    bytes_sent = 0

    def __init__(self, rank: int, world_size: int, ownership: Ownership, meeting: _Meeting) -> None:
        self.rank, self.world_size, self.ownership, self._meeting = rank, world_size, ownership, meeting

    def all_reduce(self, vector: Tensor) -> Tensor:
        # Not in the order of the ranks: an exact sum does not care.
        return torch.stack(self._meeting.exchange(self.rank, vector)[::-1]).sum(0)

    def all_gather(self, values: Tensor) -> Tensor:
        return torch.cat(self._meeting.exchange(self.rank, values))

    def plan(self, rows: Tensor) -> GatherPlan:
        ordered = order_by_owner(rows, self.ownership)
        wanted = self._meeting.exchange(self.rank, ordered)
        mine = [rows[self.ownership.rank[rows] == self.rank] for rows in wanted]
        receive = torch.bincount(self.ownership.rank[ordered], minlength=self.world_size).tolist()
        send = self.ownership.position[torch.cat(mine)]
        return GatherPlan(ordered, send, tuple(len(rows) for rows in mine), tuple(receive))

    def gather_rows(self, plan: GatherPlan, values: Tensor) -> Tensor:
        outgoing = self._meeting.exchange(self.rank, values[plan.send].split(list(plan.send_counts)))
        return torch.cat([parts[self.rank] for parts in outgoing])


def run_workers(rows: list[Tensor], work: Callable[[int, ThreadCommunicator], Result]) -> list[Result]:
    """Run work(rank, communicator) for every worker, which own these global rows; results by rank."""
    size = sum(len(part) for part in rows)
    rank, position = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.int64)
    for worker, part in enumerate(rows):
        rank[part], position[part] = worker, torch.arange(len(part))
    meeting, ownership = _Meeting(len(rows)), Ownership(rank=rank, position=position)

    def guarded(worker: int) -> Result:
        try:
            return work(worker, ThreadCommunicator(worker, len(rows), ownership, meeting))
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(len(rows)) as pool:
        return [future.result() for future in [pool.submit(guarded, worker) for worker in range(len(rows))]]
