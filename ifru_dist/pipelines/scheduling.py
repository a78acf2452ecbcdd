"""Where Dask reads logs: in threads of a job's process, or on Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ray.exceptions import RayError, RayTaskError
from ray.util.dask import ray_dask_get

from ifru_dist.errors import GangError
from ifru_dist.ingest.reading import Scheduler
from ifru_dist.pipelines.ray_session import first_line, ray_session

SchedulerName = Literal["threads", "ray"]


@contextmanager
def dask_scheduler(name: SchedulerName) -> Iterator[Scheduler]:
    """Dask's scheduler by its option."""
    if name == "threads":
        yield name
    else:
        with ray_session(cpus=1):
            yield _on_ray


def _on_ray(*args: Any, **kwargs: Any) -> Any:
    """Run a Dask graph on Ray; an error comes out as the task raised it."""
    try:
        return ray_dask_get(*args, **kwargs)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise GangError(
            f"Ray failed while reading logs ({first_line(error)}): look at the cluster, run it again"
        ) from error
