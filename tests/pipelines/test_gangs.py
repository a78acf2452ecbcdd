"""Options of jobs that compute with workers: what is refused."""

from typing import Any

import pytest

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.gangs import GangFlags


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers", -1),
        ("threads_per_worker", 0),
        ("gpus_per_worker", 2),
        ("max_retries", -1),
        ("start_timeout_s", 0.0),
        ("collective_timeout_s", 0.0),
        ("collective_timeout_s", 3_000_000.0),  # in ms more than the kernel can wait
    ],
)
def test_values_out_of_range_are_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} = {value}"):
        validated(GangFlags(**{option: value}))
