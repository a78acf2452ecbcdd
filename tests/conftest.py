"""Settings and fixtures for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A test is no slower than its timeout says; how long one example takes depends on what else the machine does.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

# Before anything imports Ray, which reads them once: without a mode Ray would write a token into the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real interaction data, IFRU_DIST_DATA or ../shared/data; skips the test where there is none."""
    folder = Path(os.environ.get("IFRU_DIST_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder} is no folder (set IFRU_DIST_DATA to the one that has them)")
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of this process with four logical CPUs, whatever the machine has.

    It ends with the module: jobs that other modules run in this process start one of their own.
    """
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
