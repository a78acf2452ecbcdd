"""What a benchmark asks of a worker: what its process has used so far, and how quick its exchanges are."""

import os
import resource
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan

Result = TypeVar("Result")

_REDUCED = 512
"""Numbers of the all_reduce that is timed: two inner products over the usual 256 partitions."""
_MESSAGE_BYTES = 1 << 22
"""What a worker receives in the exchange that is timed for its bandwidth."""
_WARM_UP = 3
_REDUCTIONS, _GATHERS = 51, 11
"""How often each is timed; the median counts."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a worker's process has used since it began; exchanges since they were first asked about."""

    host: str
    cores: int
    """CPUs that the process may run on."""
    cpu_s: float
    """CPU seconds of all its threads. A worker in the coordinator's process shares these with it."""
    peak_bytes: int
    """Most memory that was resident at any time."""
    device_peak_bytes: int
    """Most memory that tensors held on the GPU; 0 on a CPU."""
    exchanges: int
    """One for each sum and each gather of rows, two for a plan and for a gather of arrays; none for a gather for which
    this worker has nothing to send or to receive."""
    exchange_s: float
    """Seconds in these, waiting for the slowest worker included."""
    gathered_bytes: int
    """Payload of rows sent to other workers."""


@dataclass(frozen=True, kw_only=True)
class ExchangeProbe:
    """How quick the exchanges of a gang are, as one of its workers sees it."""

    latency_s: float
    """Median seconds of an all_reduce of 4 KiB; also what it costs a worker alone."""
    bytes_per_s: float | None
    """Payload received over the seconds beyond the latency; None without other workers, or where it took no longer."""


class CountedCommunicator:
    """Another communicator, whose exchanges are counted and timed; see ``Communicator``."""

    def __init__(self, inner: Communicator) -> None:
        """Count from zero."""
        self.rank, self.world_size, self.ownership = inner.rank, inner.world_size, inner.ownership
        self.bytes_sent = inner.bytes_sent
        self.exchanges, self.gathered_bytes, self.seconds = 0, 0, 0.0
        self._inner = inner

    def all_reduce(self, vector: Tensor) -> Tensor:
        """See ``Communicator``."""
        return self._counted(1, lambda: self._inner.all_reduce(vector))

    def all_gather(self, values: Tensor) -> Tensor:
        """See ``Communicator``."""
        return self._counted(2, lambda: self._inner.all_gather(values))

    def plan(self, rows: Tensor) -> GatherPlan:
        """See ``Communicator``."""
        return self._counted(2, lambda: self._inner.plan(rows))

    def gather_rows(self, plan: GatherPlan, values: Tensor) -> Tensor:
        """See ``Communicator``."""
        before = self.bytes_sent
        exchanges = 1 if self.world_size == 1 or _travels(plan, self.rank) else 0
        gathered = self._counted(exchanges, lambda: self._inner.gather_rows(plan, values))
        self.gathered_bytes += self.bytes_sent - before
        return gathered

    def usage(self, device: torch.device) -> Usage:
        """What this process has used."""
        on_gpu = device.type == "cuda"
        return Usage(
            host=socket.gethostname(),
            cores=len(os.sched_getaffinity(0)),
            cpu_s=time.process_time(),
            peak_bytes=peak_memory(),
            device_peak_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else 0,
            exchanges=self.exchanges,
            exchange_s=self.seconds,
            gathered_bytes=self.gathered_bytes,
        )

    def _counted(self, exchanges: int, exchange: Callable[[], Result]) -> Result:
        """Do an exchange, and count it."""
        start = time.perf_counter()
        result = exchange()
        self.seconds += time.perf_counter() - start
        self.exchanges += exchanges
        self.bytes_sent = self._inner.bytes_sent
        return result


def _travels(plan: GatherPlan, rank: int) -> bool:
    """Whether any row goes to another worker or comes from one."""
    return any(sum(counts) > counts[rank] for counts in (plan.send_counts, plan.receive_counts))


def peak_memory() -> int:
    """Most bytes of this process that were resident at any time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def probe_exchanges(communicator: Communicator, device: torch.device) -> ExchangeProbe:
    """Time exchanges of this worker with the others, all of which make this call together."""
    reduced = torch.zeros(_REDUCED, dtype=torch.float64, device=device)
    latency_s = _median_seconds(lambda: communicator.all_reduce(reduced), _REDUCTIONS, device)
    foreign = torch.nonzero(communicator.ownership.rank != communicator.rank).flatten()
    if communicator.world_size == 1:
        return ExchangeProbe(latency_s=latency_s, bytes_per_s=None)
    plan, own = communicator.plan(foreign), len(communicator.ownership.rank) - len(foreign)
    width = torch.tensor([_MESSAGE_BYTES // (4 * max(1, len(foreign)))], dtype=torch.float64, device=device)
    # The same for all workers, whatever share of the rows each owns.
    columns = max(1, int(communicator.all_reduce(width).item() / communicator.world_size))
    values = torch.zeros(own, columns, dtype=torch.float32, device=device)
    seconds = _median_seconds(lambda: communicator.gather_rows(plan, values), _GATHERS, device) - latency_s
    received = 4 * columns * len(foreign)
    return ExchangeProbe(latency_s=latency_s, bytes_per_s=received / seconds if seconds > 0 else None)


def _median_seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Median duration of some work after a warm-up."""
    seconds = []
    for number in range(_WARM_UP + times):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= _WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
