"""A gang of real actors: equal to the dense reference, equal bits for any number of workers, rebuilt when one dies."""

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from ifru_dist.errors import ConfigError, GangError, WorkspaceError
from ifru_dist.influence.outcome import Outcome
from ifru_dist.sharding.gang import Gang, GangOptions, StandingGang
from ifru_dist.sharding.policy import Failure
from tests.influence import reference
from tests.influence.reference import CASES, Case
from tests.sharding.gangs import ONE_OF_EACH, OPTIONS, merged, plans, single
from tests.workspaces import workspace_of_case

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.slow]


def solve(root: Path, case: Case, workers: int) -> tuple[torch.Tensor, torch.Tensor, Outcome]:
    """Changed rows, their values, and the figures of a gang's solve."""
    version = workspace_of_case(root, case)
    examples = np.flatnonzero(case.erased.numpy())
    with Gang(plans(version, workers), GangOptions(start_timeout_s=60)) as gang:
        outcomes = gang.call("solve", examples, OPTIONS)
    return *merged(outcomes), outcomes[0]


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=["mf", "lightgcn"])
def test_two_actors_equal_dense_solve(case: Case, tmp_path: Path) -> None:
    rows, values, outcome = solve(tmp_path / "ws", case, workers=2)
    _, emptied = reference.endpoint_masks(case)
    reached = (reference.importance(case, 1) > 0) & ~emptied
    expected = reference.newton(case, reached, damping=0.3, steps=2)
    assert rows.tolist() == torch.nonzero(reached).flatten().tolist()
    torch.testing.assert_close(values, expected[rows], rtol=1e-8, atol=1e-10)
    before = reference.residual(case, case.embeddings)[~emptied].norm()
    after = reference.residual(case, expected)[~emptied].norm()
    assert outcome.influence_residual == pytest.approx(float(after / before), rel=1e-7)
    assert outcome.bytes_sent > 0


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=["mf", "lightgcn"])
def test_any_number_of_workers_gives_the_same_bits(case: Case, tmp_path: Path) -> None:
    one, *others = (solve(tmp_path / f"ws{workers}", case, workers) for workers in (1, 2, 3))
    for other in others:
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        assert one[2].influence_residual == other[2].influence_residual
        assert one[2].iterations == other[2].iterations


@contextmanager
def standing(max_retries: int) -> Iterator[StandingGang]:
    gang = StandingGang(GangOptions(), max_retries)
    try:
        yield gang
    finally:
        gang.close()


def test_a_killed_worker_is_replaced_and_the_batch_done_again(tmp_path: Path) -> None:
    case = ONE_OF_EACH[0]
    version = workspace_of_case(tmp_path / "ws", case)
    examples = np.flatnonzero(case.erased.numpy())
    failures: list[Failure] = []

    def work(gang: Gang) -> list[Outcome]:
        if not failures:
            os.kill(gang.call("process_id")[1], signal.SIGKILL)
        return gang.call("solve", examples, OPTIONS)

    with standing(max_retries=1) as gang:
        outcomes = gang.run(plans(version, 2)[0], work, failures.append)
    assert [failure.attempt for failure in failures] == [1]
    undisturbed = solve(tmp_path / "other", case, workers=2)
    assert torch.equal(merged(outcomes)[1], undisturbed[1])


def test_a_gang_that_keeps_failing_is_given_up(tmp_path: Path) -> None:
    version = workspace_of_case(tmp_path / "ws", single(CASES[0]))
    failures: list[Failure] = []

    def work(gang: Gang) -> None:
        os.kill(gang.call("process_id")[0], signal.SIGKILL)
        gang.call("process_id")

    with (
        standing(max_retries=1) as gang,
        pytest.raises(GangError, match=r"gave up after 2 attempt\(s\), nothing was committed"),
    ):
        gang.run(plans(version, 2)[0], work, failures.append)
    assert len(failures) == 2


def test_a_stopped_peer_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    version = workspace_of_case(tmp_path / "ws", single(CASES[0]))
    examples = np.flatnonzero(CASES[0].erased.numpy())
    stopped: list[int] = []

    def work(gang: Gang) -> None:
        stopped.append(gang.call("process_id")[1])
        os.kill(stopped[0], signal.SIGSTOP)
        gang.call("solve", examples, OPTIONS)

    with standing(max_retries=0) as gang, pytest.raises(GangError, match="a worker failed"):
        gang.run(plans(version, 2, timeout_s=3)[0], work, lambda _: None)
    with pytest.raises(ProcessLookupError):
        os.kill(_wait_until_gone(stopped[0]), 0)


def test_a_worker_that_is_stopped_in_work_of_its_own_is_given_up_after_the_silence(tmp_path: Path) -> None:
    version = workspace_of_case(tmp_path / "ws", single(CASES[0]))
    failures: list[Failure] = []

    def work(gang: Gang) -> list[int]:
        if not failures:
            os.kill(gang.call("process_id")[0], signal.SIGSTOP)
        return gang.call("process_id")

    gang, started = StandingGang(GangOptions(silence_s=5), 1), time.monotonic()
    try:
        assert len(gang.run(plans(version, 2)[0], work, failures.append)) == 2
    finally:
        gang.close()
    assert [failure.message for failure in failures] == ["1 of 2 workers were silent for 5 s"]
    assert time.monotonic() - started < 120


def test_more_gpus_than_the_cluster_has(tmp_path: Path) -> None:
    version = workspace_of_case(tmp_path / "ws", single(CASES[0]))
    with pytest.raises(ConfigError, match=r"--gpus-per-worker = 1: 2 workers .* 0 GPUs in all"):
        Gang(plans(version, 2), GangOptions(gpus_per_worker=1))


def test_a_worker_that_sees_another_workspace_says_so(tmp_path: Path) -> None:
    version = workspace_of_case(tmp_path / "ws", single(CASES[0]))
    wrong = [dataclasses.replace(plan, digest="0" * 64) for plan in plans(version, 2)]
    with pytest.raises(WorkspaceError, match="put the workspace on a file system that all nodes share"):
        Gang(wrong, GangOptions())


def _wait_until_gone(pid: int) -> int:
    """The process id, once the process has ended or ten seconds have passed."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        signal.sigtimedwait([], 0.1)
    return pid
