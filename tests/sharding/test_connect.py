"""Workers that are connected, here two of one process: a connection made anew takes the place of the one before."""

from pathlib import Path

from ifru_dist.sharding.solo import kept_threads
from ifru_dist.sharding.worker import Worker
from tests.sharding.gangs import ONE_OF_EACH, plans
from tests.sharding.test_mesh import free_address, side_by_side
from tests.workspaces import workspace_of_case


def test_connecting_again_closes_the_connections_before(tmp_path: Path) -> None:
    version = workspace_of_case(tmp_path / "ws", ONE_OF_EACH[0])
    with kept_threads():
        workers = [Worker(plan) for plan in plans(version, 2)]
        first, second = (_connected(workers, secret) for secret in ("secret", "another"))
    assert all(mesh._lines[1 - rank].fileno() == -1 for rank, mesh in enumerate(first))
    assert all(mesh._lines[1 - rank].fileno() >= 0 for rank, mesh in enumerate(second))
    for mesh in second:
        mesh.close()


def _connected(workers: list[Worker], secret: str) -> list:
    """The connections of workers who have just met."""
    address = free_address()
    side_by_side(len(workers), lambda rank: workers[rank].connect(address, secret))
    return [worker._mesh for worker in workers]
