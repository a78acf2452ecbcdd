"""Plans of gangs for a version."""

from ifru_dist.sharding.gang import plans_for
from ifru_dist.sharding.placement import assign_partitions
from ifru_dist.sharding.worker import WorkerPlan
from ifru_dist.workspace.version import Version


def plans(version: Version, workers: int, timeout_s: float = 30) -> list[WorkerPlan]:
    """Plans of a gang on CPUs."""
    owned = assign_partitions(version.partition_edges(), workers)
    plan = WorkerPlan(
        workspace=version.workspace.root,
        version=version.manifest.version,
        digest=version.workspace.digest(version.manifest.version),
        owned=tuple(tuple(partitions) for partitions in owned),
        rank=0,
        device="cpu",
        threads=1,
        timeout_s=timeout_s,
    )
    return plans_for(plan)
