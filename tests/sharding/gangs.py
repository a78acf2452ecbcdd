"""Plans of gangs for a version, and what they solve in the tests of this folder."""

import dataclasses
from collections.abc import Sequence

import torch

from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.sharding.gang import plans_for
from ifru_dist.sharding.worker import WorkerPlan
from ifru_dist.workspace.version import Version
from tests.influence.reference import CASES, Case


def single(case: Case) -> Case:
    """The case with embeddings that are exact in float32, as tables hold them."""
    return dataclasses.replace(case, embeddings=case.embeddings.float().double())


ONE_OF_EACH = [single(CASES[1]), single(CASES[4])]
"""Matrix factorisation and LightGCN."""
OPTIONS = SolveOptions(
    damping=0.3,
    newton_steps=2,
    importance="degree",
    hops=1,
    row_budget=10**6,
    solver_tolerance=1e-13,
    max_iterations=500,
    product_dtype=torch.float64,
    product="exact",
    storage_dtype=torch.float64,
)
"""As exact as the dense reference."""


def merged(outcomes: Sequence[Outcome]) -> tuple[torch.Tensor, torch.Tensor]:
    """The workers' changed rows in global order, and their values."""
    rows = torch.cat([outcome.rows for outcome in outcomes])
    order = torch.argsort(rows)
    return rows[order], torch.cat([outcome.values for outcome in outcomes])[order]


def plans(version: Version, workers: int, timeout_s: float = 30) -> list[WorkerPlan]:
    """Plans of a gang on CPUs."""
    return plans_for(WorkerPlan.for_version(version, workers, timeout_s=timeout_s))
