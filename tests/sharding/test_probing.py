"""Counting exchanges changes nothing about them, and what a process uses only grows."""

import dataclasses
import os
import time
from typing import Any

import pytest
import torch

from ifru_dist.influence.communicator import LocalCommunicator
from ifru_dist.sharding.communicator import GangCommunicator
from ifru_dist.sharding.probing import CountedCommunicator, probe_exchanges
from tests.sharding.test_communicator import CPU, exchange, gang


def test_a_lone_worker_has_its_exchanges_counted_and_no_bandwidth() -> None:
    rows = torch.arange(5)
    counted = CountedCommunicator(LocalCommunicator(rows))
    assert counted.usage(CPU).exchanges == 0
    plan = counted.plan(torch.tensor([3, 1]))
    assert counted.gather_rows(plan, rows.double()[:, None]).flatten().tolist() == [1, 3]
    assert counted.all_reduce(torch.tensor([2.0])).item() == 2
    assert counted.all_gather(rows).tolist() == rows.tolist()
    usage = counted.usage(CPU)
    assert (usage.exchanges, usage.gathered_bytes, counted.bytes_sent) == (2 + 1 + 1 + 2, 0, 0)
    probe = probe_exchanges(counted, CPU)
    assert probe.bytes_per_s is None
    assert 0 <= probe.latency_s < 1


def test_usage_says_what_this_process_has_used() -> None:
    counted = CountedCommunicator(LocalCommunicator(torch.arange(1)))
    before = counted.usage(CPU)
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    after = counted.usage(CPU)
    assert 0.02 <= after.cpu_s - before.cpu_s < 10
    assert after.cores == len(os.sched_getaffinity(0))
    assert after.peak_bytes >= before.peak_bytes > 1 << 20
    assert after.device_peak_bytes == 0


def counted_and_probed(communicator: GangCommunicator) -> dict[str, Any]:
    """What a worker of a gang gets through a counted communicator, and what was counted."""
    counted = CountedCommunicator(communicator)
    results = exchange(counted)  # type: ignore[arg-type]
    usage = dataclasses.asdict(counted.usage(CPU))
    return results | {"usage": usage, "probe": dataclasses.asdict(probe_exchanges(counted, CPU))}


@pytest.mark.slow
def test_a_gang_exchanges_the_same_counted_or_not() -> None:
    plain, found = gang(2, exchange), gang(2, counted_and_probed)
    usages, probes = ([results.pop(name) for results in found] for name in ("usage", "probe"))
    assert found == plain
    # A plan, three gathers of rows, two sums and three gathers of arrays.
    assert [usage["exchanges"] for usage in usages] == [2 + 3 + 2 + 3 * 2] * 2
    assert all(usage["exchange_s"] > 0 for usage in usages)
    # Worker 1 asks worker 0 for four rows, three times: of two columns, of two again, and of one that is float32.
    assert [usage["gathered_bytes"] for usage in usages] == [4 * (16 + 16 + 4), 0]
    for probe in probes:
        assert 0 < probe["latency_s"] < 10
        assert 1e3 < probe["bytes_per_s"] < 1e12
