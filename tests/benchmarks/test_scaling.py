"""The same batch by several gangs, on a small workspace."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling import Config, drawn, measured, prepared
from ifru_dist.workspace.version import Version
from tests.pipelines.test_erasing import trained

SMALL = Config(interactions=3_000, share=0.05, dim=4, epochs=2, workers=(1, 2), turns=2, runs=1)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return prepared(SMALL, tmp_path_factory.mktemp("scaling"))


def test_the_workspace_has_as_many_training_interactions_as_asked_and_is_found_again(version: Version) -> None:
    assert version.manifest.n_examples == 3_000
    again = prepared(SMALL, version.workspace.root.parent)
    assert again.manifest == version.manifest


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_batch_is_whole_users_until_they_have_the_share(tmp_path: Path, share: float) -> None:
    data = trained(tmp_path / "ws", {"model": "mf"})
    batch, interactions = drawn(data, share, seed=1), data.trained()
    assert interactions.ids is not None
    users, degrees = np.unique(batch.pairs[:, 0]), np.bincount(interactions.pairs[:, 0])
    assert len(users) == batch.users
    assert len(batch.examples) == degrees[users].sum()
    assert share * len(interactions) <= len(batch.examples) < share * len(interactions) + degrees.max()
    place = np.searchsorted(interactions.ids, batch.examples)
    np.testing.assert_array_equal(interactions.pairs[place], batch.pairs)
    assert not np.array_equal(batch.examples, drawn(data, share, seed=2).examples)


@pytest.mark.slow
def test_gangs_take_turns_with_one_batch_and_their_time_is_told_apart(version: Version) -> None:
    results = measured(SMALL, version)
    assert results["same_bits"]
    assert set(results["speed_up"]) == {"1", "2"}
    one, two = results["workers"]
    assert (one["workers"], two["workers"]) == (1, 2)
    for row in (one, two):
        assert len(row["all_seconds"]) == 2
        assert len(row["waiting_s"]) == row["workers"]
        for computing, exchange in zip(row["computing_s"], row["exchange_s"], strict=True):
            assert computing + exchange == pytest.approx(row["seconds"])
    assert one["gathered_bytes"] == [0]
    assert min(two["gathered_bytes"]) > 0
    assert min(*one["exchanges"], *two["exchanges"]) > 0
    assert sorted(path.name for path in version.workspace.versions_folder.iterdir()) == ["000001.json", "000002.json"]
