"""The worker without Ray: equal to the dense reference and to a gang, and torch keeps its number of threads."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ifru_dist.errors import WorkspaceError
from ifru_dist.influence.outcome import Outcome
from ifru_dist.sharding.gang import Gang, GangOptions
from ifru_dist.sharding.solo import solo_worker
from ifru_dist.sharding.worker import WorkerPlan
from tests.influence import reference
from tests.influence.reference import Case
from tests.sharding.gangs import ONE_OF_EACH, OPTIONS, merged, plans
from tests.workspaces import workspace_of_case

MODELS = pytest.mark.parametrize("case", ONE_OF_EACH, ids=["mf", "lightgcn"])


@pytest.fixture
def three_threads() -> Iterator[None]:
    """A number of threads that no worker sets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def solo_plan(root: Path, case: Case) -> WorkerPlan:
    (plan,) = plans(workspace_of_case(root, case), 1)
    return plan


def erased(case: Case) -> np.ndarray:
    return np.flatnonzero(case.erased.numpy())


def solve(plan: WorkerPlan, case: Case) -> Outcome:
    with solo_worker(plan) as worker:
        (outcome,) = worker.call("solve", erased(case), OPTIONS)
    return outcome


@MODELS
def test_equals_the_dense_solve(case: Case, tmp_path: Path) -> None:
    outcome = solve(solo_plan(tmp_path / "ws", case), case)
    rows, values = merged([outcome])
    _, emptied = reference.endpoint_masks(case)
    reached = (reference.importance(case, 1) > 0) & ~emptied
    assert rows.tolist() == torch.nonzero(reached).flatten().tolist()
    expected = reference.newton(case, reached, damping=0.3, steps=2)
    torch.testing.assert_close(values, expected[rows], rtol=1e-8, atol=1e-10)
    assert outcome.bytes_sent == 0


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@MODELS
def test_gives_the_bits_of_a_gang(case: Case, tmp_path: Path) -> None:
    plan = solo_plan(tmp_path / "ws", case)
    alone = solve(plan, case)
    version = workspace_of_case(tmp_path / "other", case)
    for workers in (1, 2):
        with Gang(plans(version, workers), GangOptions(start_timeout_s=60)) as gang:
            outcomes = gang.call("solve", erased(case), OPTIONS)
        for mine, theirs in zip(merged([alone]), merged(outcomes), strict=True):
            assert torch.equal(mine, theirs)
        for figure in ("influence_residual", "objective_change", "stationarity", "rounds", "status"):
            assert getattr(alone, figure) == getattr(outcomes[0], figure)


@pytest.mark.usefixtures("three_threads")
def test_gives_the_threads_back_after_work_and_after_a_failure(tmp_path: Path) -> None:
    plan = solo_plan(tmp_path / "ws", ONE_OF_EACH[0])
    with solo_worker(plan):
        assert torch.get_num_threads() == plan.threads == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), solo_worker(plan):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3
    with (
        pytest.raises(WorkspaceError, match="put the workspace on a file system"),
        solo_worker(dataclasses.replace(plan, digest="0" * 64)),
    ):
        pass
    assert torch.get_num_threads() == 3
