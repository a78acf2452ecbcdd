"""The gang's exchanges among real processes: they give what a single worker who owns all rows would get."""

import socket
from collections.abc import Callable
from typing import Any, Literal, get_args

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ifru_dist.influence.communicator import LocalCommunicator, Ownership, order_by_owner
from ifru_dist.sharding.communicator import GangCommunicator
from ifru_dist.sharding.mesh import join_mesh
from ifru_dist.sharding.process_group import join_group

TransportKind = Literal["mesh", "group"]
CPU = torch.device("cpu")
ROWS = 11
OWNERS = {2: [0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1], 3: [0, 2, 2, 0, 2, 2, 0, 2, 0, 0, 2]}
"""Owner of each global row; with three workers, one owns nothing."""


def ownership_of(owner: list[int]) -> Ownership:
    rank = torch.tensor(owner)
    position = torch.tensor([owner[:row].count(owner[row]) for row in range(len(owner))])
    return Ownership(rank, position)


def values_of(rows: torch.Tensor) -> torch.Tensor:
    """What the owner of some rows holds for them, (n, 2)."""
    return torch.stack([rows.double() / 7, -rows.double().square()], dim=1)


def wanted_by(rank: int) -> torch.Tensor:
    """The rows that a worker needs, in no order: worker 0 needs none, the last one also its own."""
    return torch.tensor([[], [9, 3, 4, 0, 8], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]][rank], dtype=torch.int64)


def part_of(rank: int, empty: bool) -> torch.Tensor:
    """Uneven parts to gather: 0, 1 and 2 rows times two, or nothing from anybody."""
    count = 0 if empty else 2 * rank
    return torch.arange(3 * count, dtype=torch.float64).reshape(count, 3) + 100 * rank


def exchange(communicator: GangCommunicator) -> dict[str, Any]:
    """Everything a worker can ask of its communicator."""
    rank = communicator.rank
    own = torch.nonzero(communicator.ownership.rank == rank).flatten()
    plan = communicator.plan(wanted_by(rank))
    arrived = [communicator.gather_rows(plan, factor * values_of(own)) for factor in (1, 3)]
    single = communicator.gather_rows(plan, values_of(own)[:, :1].float())
    results = {
        "planned": plan.rows,
        "arrived": arrived,
        "single": single,
        "reduced": communicator.all_reduce(torch.tensor([1.0, 0.0, 10.0**rank], dtype=torch.float64)),
        "gathered": communicator.all_gather(part_of(rank, empty=False)),
        "nothing": communicator.all_gather(part_of(rank, empty=True)),
        "integers": communicator.all_gather(torch.arange(rank)),
        "bytes_sent": communicator.bytes_sent,
    }
    vector = torch.ones(3, dtype=torch.float64)
    communicator.all_reduce(vector)
    results["given"] = vector
    return results


def silent_peer(communicator: GangCommunicator) -> dict[str, Any]:
    """Worker 0 waits for a worker that leaves without a word."""
    if communicator.rank > 0:
        return {}
    try:
        communicator.all_reduce(torch.ones(1, dtype=torch.float64))
    except (RuntimeError, ConnectionError) as error:
        return {"error": str(error)}
    return {}


def _worker(
    rank: int, address: str, world_size: int, task: Callable[..., dict[str, Any]], kind: TransportKind, queue: Any
) -> None:
    """One process of a gang."""
    transport = (
        join_mesh(address, "secret", rank, world_size, timeout_s=20)
        if kind == "mesh"
        else join_group(address, rank, world_size, CPU, timeout_s=20)
    )
    results = task(GangCommunicator(ownership_of(OWNERS[world_size]), transport))
    queue.put((rank, {name: _plain(value) for name, value in results.items()}))
    if dist.is_initialized():
        dist.destroy_process_group()


def _plain(value: Any) -> Any:
    """Tensors as lists: they would otherwise be shared through file handles of a process that ends."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def gang(world_size: int, task: Callable[..., dict[str, Any]], kind: TransportKind = "mesh") -> list[dict[str, Any]]:
    """Results of a task by rank, each from a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_worker, (address, world_size, task, kind, queue), nprocs=world_size)
    by_rank = dict(queue.get() for _ in range(world_size))
    return [by_rank[rank] for rank in range(world_size)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(TransportKind))
@pytest.mark.parametrize("world_size", [2, 3])
def test_a_gang_exchanges_what_a_single_worker_has(world_size: int, kind: TransportKind) -> None:
    ownership = ownership_of(OWNERS[world_size])
    local = LocalCommunicator(torch.arange(ROWS))
    everything = values_of(torch.arange(ROWS))
    ranks = range(world_size)
    for rank, results in enumerate(gang(world_size, exchange, kind)):
        assert results["planned"] == order_by_owner(wanted_by(rank), ownership).tolist()
        alone = dict(zip(local.plan(wanted_by(rank)).rows.tolist(), _local_rows(local, rank, everything), strict=True))
        for factor, arrived in zip((1, 3), results["arrived"], strict=True):
            assert arrived == [[factor * value for value in alone[row]] for row in results["planned"]]
        assert results["single"] == everything.float()[results["planned"], :1].tolist()
        assert results["reduced"] == [world_size, 0.0, sum(10.0**other for other in ranks)]
        assert results["given"] == [1.0, 1.0, 1.0]  # the argument stays as it was
        assert results["gathered"] == torch.cat([part_of(other, empty=False) for other in ranks]).tolist()
        assert results["nothing"] == []
        assert results["integers"] == [value for other in ranks for value in range(other)]
        assert results["bytes_sent"] > 0


def _local_rows(local: LocalCommunicator, rank: int, everything: torch.Tensor) -> list[list[float]]:
    """What a single worker gets for the rows that a worker of the gang needs."""
    return local.gather_rows(local.plan(wanted_by(rank)), everything).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(TransportKind))
def test_a_lost_peer_is_an_error_and_not_a_wait(kind: TransportKind) -> None:
    waiting, lost = gang(2, silent_peer, kind)
    assert waiting["error"]
    assert lost == {}


def test_a_single_worker_keeps_its_values() -> None:
    local = LocalCommunicator(torch.tensor([2, 0, 1]))
    vector = torch.tensor([1.0, 2.0])
    assert local.all_reduce(vector).tolist() == [1.0, 2.0]
    assert local.all_gather(vector).tolist() == [1.0, 2.0]
    plan = local.plan(torch.tensor([2, 0]))
    assert plan.rows.tolist() == [0, 2]
    held = torch.tensor([[20.0], [0.0], [10.0]])  # in the order of its rows: 2, 0, 1
    assert local.gather_rows(plan, held).tolist() == [[0.0], [20.0]]
    assert local.bytes_sent == 0
