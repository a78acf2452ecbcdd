"""How workers on CPUs find each other: all call rank 0, which tells everyone where the others listen.

Whoever calls proves that it knows the gang's secret, which the workers have from their coordinator and which is never
sent here: a proof is an HMAC of what is said and of whom it is said to. What is said is not encrypted.
"""

import hmac
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

_PLACE = struct.Struct("<IH64s")
"""Where a worker listens: rank, port, IP address."""
_PROOF_BYTES = 32
_HELLO_BYTES = _PROOF_BYTES + _PLACE.size
_RETRY_S = 0.05
"""Between calls to a rank 0 that does not listen yet."""
_MAX_CALLERS = 256
"""So many may be listened to at once; beyond, the one that has been there longest without a hello has to go."""


def meet(address: str, secret: str, rank: int, world_size: int, timeout_s: float) -> dict[int, socket.socket]:
    """Connections to all other workers, by rank; rank 0 listens at ``host:port`` and the others call it there.

    Raises:
        TimeoutError: some worker did not come within the timeout.
        ConnectionError: one was lost, or whoever listens at the address does not know the secret.
    """
    host, port = address.rsplit(":", 1)
    own = _own_address(host, int(port))
    meeting = _Meeting(secret, rank, world_size, timeout_s)
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    backlog = max(world_size, _MAX_CALLERS)
    try:
        with socket.create_server((own, 0 if rank else int(port)), family=family, backlog=backlog) as server:
            if rank == 0:
                meeting.host(server)
            else:
                meeting.attend(server, host, int(port))
    except BaseException:
        for line in meeting.lines.values():
            line.close()
        raise
    return meeting.lines


class _Meeting:
    """One worker's part in bringing a gang together."""

    def __init__(self, secret: str, rank: int, world_size: int, timeout_s: float) -> None:
        """It has to be over when the timeout is."""
        self.lines: dict[int, socket.socket] = {}
        self._secret, self._rank, self._world_size = secret.encode(), rank, world_size
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s

    def host(self, server: socket.socket) -> None:
        """Rank 0: wait for all others, then tell them where everyone listens."""
        places = {0: _place(0, server)} | self._answer(server, set(range(1, self._world_size)))
        listed = b"".join(places[peer] for peer in range(self._world_size))
        for peer, line in self.lines.items():
            line.settimeout(self._left_s())
            line.sendall(self._proof(b"list", peer, listed) + listed)

    def attend(self, server: socket.socket, host: str, port: int) -> None:
        """Any other rank: call rank 0, then the workers between, and be called by those of higher ranks."""
        own = _place(self._rank, server)
        self._call(0, host, port, own)
        # The lower ranks listen already, and the kernel takes calls that they have not come to yet.
        for peer, (peer_host, peer_port) in self._listed().items():
            if 0 < peer < self._rank:
                self._call(peer, peer_host, peer_port, own)
        self._answer(server, set(range(self._rank + 1, self._world_size)))

    def _call(self, peer: int, host: str, port: int, own: bytes) -> None:
        """Connect to a worker, again and again while nobody listens there, and say who calls and where it listens."""
        while True:
            try:
                line = socket.create_connection((host, port), self._left_s())
            except TimeoutError:
                raise self._late([peer]) from None
            except ConnectionRefusedError:
                time.sleep(min(_RETRY_S, self._left_s()))
            else:
                if line.getsockname() != line.getpeername():
                    break
                line.close()  # a port that nobody listens at yet may be given to the caller, who then meets itself
            if time.monotonic() >= self._deadline:
                raise self._late([peer])
        self.lines[peer] = line
        line.sendall(self._proof(b"hello", peer, own) + own)

    def _listed(self) -> dict[int, tuple[str, int]]:
        """Where the workers listen, by rank, as rank 0 tells it once all have called."""
        answer = self._read(self.lines[0], _PROOF_BYTES + self._world_size * _PLACE.size)
        proof, listed = answer[:_PROOF_BYTES], answer[_PROOF_BYTES:]
        if not hmac.compare_digest(proof, self._proof(b"list", self._rank, listed)):
            raise ConnectionError("who listens where worker 0 was to be does not know the gang's secret")
        return {peer: (host.rstrip(b"\0").decode(), port) for peer, port, host in _PLACE.iter_unpack(listed)}

    def _read(self, line: socket.socket, size: int) -> bytes:
        """So many bytes of rank 0, in whatever pieces they come."""
        heard = b""
        while len(heard) < size:
            line.settimeout(self._left_s())
            try:
                piece = line.recv(size - len(heard))
            except TimeoutError:
                raise TimeoutError(
                    f"worker 0 did not say within {self._timeout_s:g} s that all workers have come"
                ) from None
            if not piece:
                raise ConnectionError("worker 0 closed its connection before all workers had come")
            heard += piece
        return heard

    def _answer(self, server: socket.socket, missing: set[int]) -> dict[int, bytes]:
        """Wait for the calls of some workers, and hang up on all others; the places at which they listen, by rank."""
        places: dict[int, bytes] = {}
        with _Callers(server) as callers:
            hellos = callers.hellos(self._deadline)
            while missing - places.keys():
                line, hello = next(hellos, (None, b""))
                if line is None:
                    raise self._late(sorted(missing - places.keys()))
                proof, place = hello[:_PROOF_BYTES], hello[_PROOF_BYTES:]
                peer = _PLACE.unpack(place)[0]
                known = hmac.compare_digest(proof, self._proof(b"hello", self._rank, place))
                if known and peer in missing - places.keys():
                    self.lines[peer], places[peer] = line, place
                else:
                    line.close()
        return places

    def _proof(self, role: bytes, to: int, content: bytes) -> bytes:
        """What only who knows the secret can say along with a content, to one worker in one role."""
        return hmac.digest(self._secret, role + to.to_bytes(4, "little") + content, "sha256")

    def _left_s(self) -> float:
        """Time until the deadline; a little when it is over, for a socket takes zero for something else."""
        return max(0.001, self._deadline - time.monotonic())

    def _late(self, peers: list[int]) -> TimeoutError:
        """The error for workers that did not come."""
        return TimeoutError(f"worker(s) {peers} did not connect within {self._timeout_s:g} s")


class _Callers:
    """Those who called and have not said yet who they are, all listened to at once; a context that hangs up on them."""

    def __init__(self, server: socket.socket) -> None:
        """Of a server."""
        self._server, self._selector = server, selectors.DefaultSelector()
        self._heard: dict[socket.socket, bytes] = {}
        server.setblocking(False)
        self._selector.register(server, selectors.EVENT_READ)

    def hellos(self, deadline: float) -> Iterator[tuple[socket.socket, bytes]]:
        """Connections with their hellos, each as soon as it is complete, until the deadline (of ``time.monotonic``)."""
        while (left_s := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                line = key.fileobj
                if line is self._server:
                    self._admit()
                elif isinstance(line, socket.socket) and line in self._heard and self._complete(line):
                    yield line, self._forget(line)

    def _admit(self) -> None:
        """Listen to one more caller."""
        try:
            line, _ = self._server.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        line.setblocking(False)
        self._selector.register(line, selectors.EVENT_READ)
        self._heard[line] = b""
        if len(self._heard) > _MAX_CALLERS:
            self._hang_up(next(iter(self._heard)))

    def _complete(self, line: socket.socket) -> bool:
        """Hear what a caller has to say, but nothing after its hello; whether that is complete now."""
        try:
            piece = line.recv(_HELLO_BYTES - len(self._heard[line]))
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self._hang_up(line)
            return False
        self._heard[line] += piece
        return len(self._heard[line]) == _HELLO_BYTES

    def _forget(self, line: socket.socket) -> bytes:
        """Listen to a caller no more; what it said."""
        self._selector.unregister(line)
        return self._heard.pop(line)

    def _hang_up(self, line: socket.socket) -> None:
        """Close a caller's connection."""
        self._forget(line)
        line.close()

    def __enter__(self) -> Self:
        """The callers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up on those who are left."""
        for line in list(self._heard):
            self._hang_up(line)
        self._selector.close()


def _place(rank: int, server: socket.socket) -> bytes:
    """Where a worker listens, as it is sent."""
    host, port = server.getsockname()[:2]
    return _PLACE.pack(rank, port, host.encode())


def _own_address(host: str, port: int) -> str:
    """The address of this node as those see it who reach it the way that it reaches a host; nothing is sent."""
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])
