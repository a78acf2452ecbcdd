"""What to do when a gang fails: a pure function from what happened to a decision."""

from dataclasses import dataclass
from typing import Literal

Decision = Literal["retry", "give_up"]


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a batch."""

    attempt: int
    """1 for the first attempt."""
    message: str


def decide(failure: Failure, max_retries: int) -> Decision:
    """Retry on fresh workers while attempts are left."""
    return "retry" if failure.attempt <= max_retries else "give_up"
