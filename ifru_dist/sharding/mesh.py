"""Workers on CPUs: a TCP connection between every two of them, written to and read from by the threads that solve.

A batch makes dozens of exchanges of a few KiB. torch.distributed's gloo hands each of them to threads of its own, on
either side, and where cores are busy every thread waits for its turn: on two shared cores a sum of 512 numbers took
0.4 ms in the median and 1.4 ms in the mean, and the same bytes over a plain connection 0.02 ms. Both sides know how
long a message is, so nothing but payload travels, and nothing at all between workers with nothing for each other.
"""

import select
import socket
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ifru_dist.sharding.rendezvous import meet

_LARGE_BYTES = 1 << 16
"""Vectors from this size on are added up in shares, so that what a worker sends does not grow with their number."""
_IDLE_S = 60
"""After so long without a message the kernel asks for a sign of life: a gang stands idle from batch to batch."""

Messages = dict[int, memoryview]
"""Bytes to or from other workers, by rank."""


class Mesh:
    """See ``ifru_dist.sharding.communicator.Transport``."""

    def __init__(self, rank: int, lines: dict[int, socket.socket], timeout_s: float) -> None:
        """With a connection to every other worker, by rank; one that is silent for the timeout is an error."""
        self.rank, self.world_size = rank, len(lines) + 1
        self._lines, self._timeout_s = lines, timeout_s
        self._peers = {line.fileno(): peer for peer, line in lines.items()}
        for line in lines.values():
            line.setblocking(False)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):  # not on every system
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)

    def total(self, vector: Tensor) -> Tensor:
        """Sum of a vector (k,) over the workers, the same bits on all of them."""
        return self._doubled(vector) if _size_bytes(vector) < _LARGE_BYTES else self._shared(vector)

    def everyone(self, values: Tensor) -> list[Tensor]:
        """The arrays of all workers, which are of one shape and type, by rank."""
        values = values.contiguous()
        parts = [values if peer == self.rank else torch.empty_like(values) for peer in range(self.world_size)]
        self.deliver([values] * self.world_size, parts)
        return parts

    def deliver(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """Send a tensor to every other worker and fill those that they send, by rank; all are contiguous."""
        self._carry({peer: outgoing[peer] for peer in self._lines}, {peer: incoming[peer] for peer in self._lines})

    def close(self) -> None:
        """Close the connections."""
        for line in self._lines.values():
            line.close()

    def _doubled(self, vector: Tensor) -> Tensor:
        """A sum by recursive doubling: each step joins pairs that hold the sums of twice as many workers as before.

        Workers beyond the largest power of two give theirs to one below, and take the result from it.
        """
        inside = 1 << (self.world_size.bit_length() - 1)
        partner, total, other = self.rank ^ inside, vector.clone(), torch.empty_like(vector)
        if self.rank >= inside:
            self._carry({partner: vector}, {})
            self._carry({}, {partner: total})
            return total
        if partner < self.world_size:
            self._carry({}, {partner: other})
            total += other
        step = 1
        while step < inside:
            self._carry({self.rank ^ step: total}, {self.rank ^ step: other})
            total += other
            step *= 2
        if partner < self.world_size:
            self._carry({partner: total}, {})
        return total

    def _shared(self, vector: Tensor) -> Tensor:
        """A sum of which every worker forms its share, in the order of the ranks."""
        shares = torch.tensor_split(vector.contiguous(), self.world_size)
        given = torch.stack([shares[self.rank]] * self.world_size)
        self.deliver(shares, given.unbind())
        total = torch.empty_like(vector)
        totals = torch.tensor_split(total, self.world_size)
        totals[self.rank].copy_(given.sum(0))
        self.deliver([totals[self.rank]] * self.world_size, totals)
        return total

    def _carry(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> None:
        """Send to some workers and fill what is to come from some, by rank; nothing is sent for no bytes."""
        sending, receiving = (
            {peer: _bytes(tensor) for peer, tensor in tensors.items() if tensor.numel()}
            for tensors in (outgoing, incoming)
        )
        for peer in list(sending):  # most messages fit into what the kernel takes at once
            self._send(peer, sending)
        poll = select.poll()
        for peer in sending.keys() | receiving.keys():
            poll.register(self._lines[peer], _awaited(peer, sending, receiving))
        while sending or receiving:
            ready = poll.poll(1000 * self._timeout_s)
            if not ready:
                silent = sorted(sending.keys() | receiving.keys())
                raise TimeoutError(f"no word from worker(s) {silent} for {self._timeout_s:g} s in an exchange")
            for descriptor, _ in ready:
                peer = self._peers[descriptor]
                self._receive(peer, receiving)
                self._send(peer, sending)
                poll.modify(descriptor, _awaited(peer, sending, receiving))
                if peer not in sending and peer not in receiving:
                    poll.unregister(descriptor)

    def _send(self, peer: int, sending: Messages) -> None:
        """Hand as much of a worker's message to the kernel as it takes."""
        if peer not in sending:
            return
        try:
            sent = self._lines[peer].send(sending[peer])
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise ConnectionError(f"worker {peer} closed its connection: {error}") from error
        sending[peer] = sending[peer][sent:]
        if not len(sending[peer]):
            del sending[peer]

    def _receive(self, peer: int, receiving: Messages) -> None:
        """Take as much of a worker's message from the kernel as is there."""
        if peer not in receiving:
            return
        try:
            received = self._lines[peer].recv_into(receiving[peer])
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise ConnectionError(f"worker {peer} closed its connection: {error}") from error
        if received == 0:
            raise ConnectionError(f"worker {peer} closed its connection")
        receiving[peer] = receiving[peer][received:]
        if not len(receiving[peer]):
            del receiving[peer]


def join_mesh(address: str, secret: str, rank: int, world_size: int, timeout_s: float) -> Mesh:
    """Connect to all other workers, who know the same secret and meet at ``host:port``, where rank 0 listens.

    Raises:
        TimeoutError: some worker did not come within the timeout.
        ConnectionError: one was lost, or whoever listens at the address does not know the secret.
    """
    return Mesh(rank, meet(address, secret, rank, world_size, timeout_s), timeout_s)


def _awaited(peer: int, sending: Messages, receiving: Messages) -> int:
    """What of a connection is waited for."""
    return (select.POLLOUT if peer in sending else 0) | (select.POLLIN if peer in receiving else 0)


def _bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return values.numpy().reshape(-1).view(np.uint8).data


def _size_bytes(values: Tensor) -> int:
    """Payload of a tensor."""
    return values.numel() * values.element_size()
