"""The sample that a calibration unlearns: whole pairs, drawn by the seed, without what requests name."""

from pathlib import Path

import numpy as np

from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.calibration_sample import draw_sample
from ifru_dist.pipelines.requests import Request
from tests.pipelines.batches import ROWS, run
from tests.pipelines.calibrations import calibrated, trained_workspace
from tests.pipelines.small import (
    BUSY,
    SIZES,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    whole_user,
)
from tests.workspaces import item_id, user_id


def everywhere(pairs: Interactions, rows: np.ndarray) -> np.ndarray:
    """Mask of the interactions whose pair is among rows (m, 2)."""
    return (pairs.rows[:, None] == rows[None]).all(axis=2).any(axis=1)


def test_the_sample_is_whole_pairs_and_follows_the_seed(tmp_path: Path) -> None:
    version, data = small_workspace(tmp_path / "ws"), small_interactions()
    distinct = len(np.unique(data.rows, axis=0))
    samples = [draw_sample(version, share=0.5, most=20_000, seed=seed, exclude=[]) for seed in (1, 1, 2)]
    assert samples[0].examples.tolist() == samples[1].examples.tolist() != samples[2].examples.tolist()
    for sample in samples:
        assert len(np.unique(sample.sampled.rows, axis=0)) == round(0.5 * distinct)
        assert len(sample.sampled) > round(0.5 * distinct)  # some pairs stand twice
        assert np.flatnonzero(everywhere(data, sample.sampled.rows)).tolist() == sample.examples.tolist()
        assert sample.sampled.labels.tolist() == data.labels[sample.examples].tolist()
        assert sample.kept.rows.tolist() == np.delete(data.rows, sample.examples, axis=0).tolist()
    assert len(np.unique(draw_sample(version, 0.5, 7, 1, []).sampled.rows, axis=0)) == 7
    assert len(np.unique(draw_sample(version, 1e-9, 7, 1, []).sampled.rows, axis=0)) == 1


def test_what_was_erased_and_what_requests_name_stays_out_of_the_sample(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    version = run(tmp_path / "ws", pair(ROWS[0]), pair(ROWS[1]))
    item = int(ROWS[7, 1])
    exclude = [
        Request(None, "user", str(user_id(BUSY)), None),
        Request(None, "item", None, item_id(item - SIZES[0])),
        Request(None, "interaction", str(user_id(int(ROWS[50, 0]))), item_id(int(ROWS[50, 1]) - SIZES[0])),
        Request(None, "interaction", "nobody", item_id(0)),
        Request(None, "user", "nobody", None),
    ]
    left = version.train()
    named = (left.rows[:, 0] == BUSY) | (left.rows[:, 1] == item) | everywhere(left, ROWS[[50]])
    sample = draw_sample(version, share=0.999, most=20_000, seed=1, exclude=exclude)
    assert sample.excluded == named.sum() > 10
    assert sample.sampled.rows.tolist() == left.rows[~named].tolist()  # all that may be drawn
    assert sample.kept.rows.tolist() == left.rows[named].tolist()
    assert version.all_examples().take(sample.examples).rows.tolist() == sample.sampled.rows.tolist()


def test_requests_to_exclude_are_read_from_the_file(tmp_path: Path) -> None:
    trained_workspace(tmp_path / "ws")
    requests = request_file(tmp_path / "requests.parquet", whole_user(BUSY), pair(ROWS[50]))
    _, report = calibrated(tmp_path / "ws", exclude=requests)
    data = small_interactions()
    assert report["sample"]["excluded"] == ((data.rows[:, 0] == BUSY) | everywhere(data, ROWS[[50]])).sum()
