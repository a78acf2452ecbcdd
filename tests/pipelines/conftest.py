"""Where unlearning computes in the tests of this folder, unless it does so in this process (``workers=0``)."""

from contextlib import nullcontext

import pytest

from ifru_dist.pipelines import gangs


@pytest.fixture
def on_local_ray(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    """Gangs on the Ray of this process."""
    monkeypatch.setattr(gangs, "ray_session", nullcontext)
