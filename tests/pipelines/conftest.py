"""Where unlearning computes in the tests of this folder."""

from collections.abc import Iterator

import pytest

from ifru_dist.pipelines import unlearn as pipeline
from tests.pipelines.small import no_session, one_torch_thread, without_ray


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One worker in this process instead of a gang."""
    without_ray(monkeypatch)
    with one_torch_thread():
        yield


@pytest.fixture
def on_local_ray(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    """A gang on the Ray of this process."""
    monkeypatch.setattr(pipeline, "ray_session", no_session)
