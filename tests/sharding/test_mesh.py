"""Connections between workers, here threads of one process: messages of any size, lost and silent peers."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from ifru_dist.sharding.mesh import Mesh, join_mesh

LARGE = 3_000_000
"""Numbers of a message that no buffer of the kernel holds."""


def meshes(world_size: int, timeout_s: float = 20) -> list[Mesh]:
    """The ends of a gang's connections, by rank."""
    address = free_address()
    return side_by_side(world_size, lambda rank: join_mesh(address, "secret", rank, world_size, timeout_s))


def free_address() -> str:
    """Where nobody listens yet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def side_by_side(world_size: int, work: Callable[[int], Any]) -> list[Any]:
    """What work gives for each rank, in threads."""
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, range(world_size)))


def together(gang: list[Mesh], work: Callable[[Mesh], Any]) -> list[Any]:
    """What work with each worker's end gives, by rank; the connections are closed."""
    try:
        return side_by_side(len(gang), lambda rank: work(gang[rank]))
    finally:
        for mesh in gang:
            mesh.close()


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_small_and_large_vectors_add_up_to_the_same_bits_everywhere(world_size: int) -> None:
    vectors = [torch.rand(LARGE // 10 + 3, generator=torch.Generator().manual_seed(rank)) for rank in range(world_size)]
    small, large = zip(
        *together(
            meshes(world_size), lambda mesh: (mesh.total(vectors[mesh.rank][:7]), mesh.total(vectors[mesh.rank]))
        ),
        strict=True,
    )
    expected = torch.stack(vectors).double().sum(0)
    for sums, length in ((small, 7), (large, len(expected))):
        assert all(torch.equal(part, sums[0]) for part in sums)
        torch.testing.assert_close(sums[0].double(), expected[:length], rtol=1e-6, atol=0)


def test_both_send_at_once_what_no_buffer_holds() -> None:
    def swapped(mesh: Mesh) -> torch.Tensor:
        arrived = torch.empty(LARGE, 1)
        mesh.deliver([torch.full((LARGE, 1), float(mesh.rank))] * 2, [arrived] * 2)
        return arrived

    first, second = together(meshes(2), swapped)
    assert bool((first == 1).all())
    assert bool((second == 0).all())


def test_a_worker_with_nothing_to_send_or_receive_waits_for_nobody() -> None:
    gang = meshes(2)
    own, nothing = torch.arange(3.0), torch.empty(0, 4)
    gang[0].deliver([own, nothing], [own, nothing])  # the other makes no call
    assert own.tolist() == [0.0, 1.0, 2.0]
    for mesh in gang:
        mesh.close()


def test_a_silent_worker_is_an_error_after_the_timeout() -> None:
    gang = meshes(3, timeout_s=0.2)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"worker\(s\) \[1, 2\] for 0.2 s"):
        gang[0].everyone(torch.ones(1))
    assert 0.2 <= time.monotonic() - started < 10
    for mesh in gang:
        mesh.close()


@pytest.mark.parametrize("numbers", [1, LARGE])
def test_a_worker_that_is_gone_is_an_error_at_once(numbers: int) -> None:
    gang = meshes(2)
    gang[1].close()
    with pytest.raises(ConnectionError, match="worker 1 closed its connection"):
        gang[0].everyone(torch.ones(numbers))
    gang[0].close()
