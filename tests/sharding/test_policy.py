"""Whether a failed gang is built again."""

import pytest

from ifru_dist.sharding.policy import Failure, decide


@pytest.mark.parametrize(
    ("attempt", "max_retries", "decision"),
    [(1, 0, "give_up"), (1, 1, "retry"), (2, 1, "give_up"), (2, 2, "retry"), (3, 2, "give_up"), (1, 5, "retry")],
)
def test_as_many_retries_as_allowed(attempt: int, max_retries: int, decision: str) -> None:
    assert decide(Failure(attempt, "a worker was lost"), max_retries) == decision
