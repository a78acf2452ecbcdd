"""How workers find each other, here threads of one process: strangers, pieces, wrong secrets, no-shows."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from ifru_dist.sharding.mesh import join_mesh
from ifru_dist.sharding.rendezvous import meet
from tests.sharding.test_mesh import free_address, meshes, side_by_side, together

HELLO_BYTES = 32 + 70
"""A proof and a place."""


def ones_add_up(gang: list[Any]) -> bool:
    """Whether a gang can do what it is for; its connections are closed."""
    size = float(len(gang))
    return [part.tolist() for part in together(gang, lambda mesh: mesh.total(torch.ones(2)))] == [[size] * 2] * len(
        gang
    )


def hung_up_on(line: socket.socket) -> bool:
    """Whether the other side has closed a connection."""
    line.settimeout(5)
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[bytes]], list[socket.socket]]]:
    """Have every server called by strangers before any worker calls; the strangers' ends."""
    create, strangers = socket.create_server, list[socket.socket]()

    def by(hellos: list[bytes]) -> list[socket.socket]:
        def server_with_strangers(*arguments: Any, **options: Any) -> socket.socket:
            server = create(*arguments, **options)
            for hello in hellos:
                strangers.append(socket.create_connection(server.getsockname()[:2]))
                strangers[-1].sendall(hello)
            return server

        monkeypatch.setattr(socket, "create_server", server_with_strangers)
        return strangers

    yield by
    for line in strangers:
        line.close()


@pytest.mark.parametrize("hello", [b"", b"GET / HTTP/1.1\r\n", bytes(HELLO_BYTES), bytes(4 * HELLO_BYTES)], ids=len)
def test_strangers_delay_nobody(hello: bytes, visited: Callable[[list[bytes]], list[socket.socket]]) -> None:
    address, strangers = free_address(), visited([hello] * 2)
    started = time.monotonic()
    gang = side_by_side(3, lambda rank: join_mesh(address, "secret", rank, 3, 20))
    assert time.monotonic() - started < 1
    assert len(strangers) == 6
    assert ones_add_up(gang)
    assert all(hung_up_on(line) for line in strangers)


def test_more_strangers_than_are_listened_to_delay_nobody(
    visited: Callable[[list[bytes]], list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ifru_dist.sharding.rendezvous._MAX_CALLERS", 4)
    address, strangers = free_address(), visited([b""] * 4)
    gang = side_by_side(2, lambda rank: join_mesh(address, "secret", rank, 2, 20))
    assert len(strangers) == 8
    assert ones_add_up(gang)


def test_a_hello_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    send_all = socket.socket.sendall

    def in_pieces(line: socket.socket, content: bytes) -> None:
        for start in range(0, len(content), 40):
            send_all(line, content[start : start + 40])
            time.sleep(0.02)

    monkeypatch.setattr(socket.socket, "sendall", in_pieces)
    assert ones_add_up(meshes(3, timeout_s=20))


def test_thirty_joins_in_a_row_take_less_than_one_stall() -> None:
    started = time.monotonic()
    for _ in range(30):
        assert ones_add_up(meshes(3, timeout_s=5))
    assert time.monotonic() - started < 5


def test_rank_0_may_come_last() -> None:
    address = free_address()

    def late(rank: int) -> Any:
        time.sleep(0 if rank else 0.3)
        return join_mesh(address, "secret", rank, 3, 20)

    assert ones_add_up(side_by_side(3, late))


def failures(secrets: list[str], timeout_s: float) -> list[str]:
    """What the workers with some secrets die of; the last one of the gang does not come."""
    address, world_size = free_address(), len(secrets) + 1

    def failure(rank: int) -> str:
        with pytest.raises((TimeoutError, ConnectionError)) as caught:
            meet(address, secrets[rank], rank, world_size, timeout_s)
        return f"{caught.type.__name__}: {caught.value}"

    return side_by_side(len(secrets), failure)


def test_a_worker_that_never_comes_is_named() -> None:
    first, second = failures(["secret", "secret"], timeout_s=0.3)
    assert first == "TimeoutError: worker(s) [2] did not connect within 0.3 s"
    assert second in (
        "TimeoutError: worker 0 did not say within 0.3 s that all workers have come",
        "ConnectionError: worker 0 closed its connection before all workers had come",
    )


def test_a_worker_with_a_wrong_secret_is_hung_up_on() -> None:
    first, second = failures(["secret", "another"], timeout_s=0.5)
    assert first == "TimeoutError: worker(s) [1, 2] did not connect within 0.5 s"
    assert "closed its connection" in second or "reset" in second


def test_a_rank_0_that_never_comes_is_named() -> None:
    with pytest.raises(TimeoutError, match=r"worker\(s\) \[0\] did not connect within 0.2 s"):
        meet(free_address(), "secret", 1, 2, timeout_s=0.2)


def test_nobody_is_believed_to_be_rank_0_without_the_secret() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        joining = pool.submit(partial(meet, f"127.0.0.1:{server.getsockname()[1]}", "secret", 1, 2, 5))
        line, _ = server.accept()
        with line:
            said = line.recv(HELLO_BYTES, socket.MSG_WAITALL)
            assert b"secret" not in said
            line.sendall(said[:32] + said[32:] * 2)
            with pytest.raises(ConnectionError, match="does not know the gang's secret"):
                joining.result()
