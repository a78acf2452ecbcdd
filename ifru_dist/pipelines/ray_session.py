"""Connecting to the Ray cluster that the environment names, or starting a local one for the time of a job."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ifru_dist.errors import GangError

_ANSWER_TIMEOUT_S = 10.0


@contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    """Be connected to Ray inside the context.

    A job submitted to a cluster finds it in RAY_ADDRESS. Without that variable a local Ray is started, with as many
    CPUs as the machine has or the job needs: a stale address of a cluster that was killed is never followed.

    Args:
        cpus: CPUs that the job needs at least.

    Raises:
        GangError: the named cluster does not answer.
    """
    address = os.environ.get("RAY_ADDRESS")
    on_stop = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _require_listener(address)
            ray.init(address=address, log_to_driver=False)
        else:
            local_cpus = max(cpus, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=local_cpus, include_dashboard=False, log_to_driver=False)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise GangError(
            f"no Ray cluster at {address or 'this machine'} ({first_line(error)}): check RAY_ADDRESS and "
            "RAY_AUTH_MODE, or unset RAY_ADDRESS to start a local one"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_stop)  # Ray has put its own in the job's place
    try:
        yield
    finally:
        ray.shutdown()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _require_listener(address: str) -> None:
    """Raise OSError where nobody listens at ``[ray://]host:port``: Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIMEOUT_S).close()
