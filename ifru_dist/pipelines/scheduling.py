"""Where Dask reads logs, in threads of a job's process or on Ray, and where it sorts their rows on disk."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ray.exceptions import RayError, RayTaskError
from ray.util.dask import ray_dask_get

from ifru_dist.errors import GangError
from ifru_dist.ingest.running import Scheduler
from ifru_dist.pipelines.ray_session import first_line, ray_session
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.vacuum import SPILL_FOLDER

_DIGEST_LETTERS = 16
SchedulerName = Literal["threads", "ray"]


@contextmanager
def dask_scheduler(name: SchedulerName) -> Iterator[Scheduler]:
    """Dask's scheduler by its option."""
    if name == "threads":
        yield name
    else:
        with ray_session(cpus=1):
            yield _on_ray


def spill_folder(workspace: Workspace, scratch: Path | None) -> Path:
    """Where a job that holds a workspace's lock sorts rows on disk: one place, so that the next clears it up."""
    if scratch is None:
        return workspace.root / SPILL_FOLDER
    digest = hashlib.sha256(bytes(workspace.root.resolve())).hexdigest()
    return scratch / f"{SPILL_FOLDER}-{digest[:_DIGEST_LETTERS]}"


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
