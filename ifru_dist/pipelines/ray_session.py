"""Connecting to the Ray cluster that the environment names, or starting a local one for the time of a job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ifru_dist.errors import GangError


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
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            local_cpus = max(cpus, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=local_cpus, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise GangError(
            f"no Ray cluster at {address or 'this machine'} ({str(error).splitlines()[0]}): check RAY_ADDRESS and "
            "RAY_AUTH_MODE, or unset RAY_ADDRESS to start a local one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
