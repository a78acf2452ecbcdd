"""Runs that are cut off at seeded points end as undisturbed ones; and a harness that would notice if they did not."""

from pathlib import Path

import pytest

from benchmarks.fault_scenario import doubled, ending_of, make_scenario
from benchmarks.kill_points import Config, main, run
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn


@pytest.mark.slow
@pytest.mark.parametrize(("model", "seed"), [("mf", 1), ("lightgcn", 2)])
def test_nothing_is_lost_or_done_twice_at_seeded_kill_points(model: str, seed: int) -> None:
    outcomes = run(10, seed, model)
    assert [outcome for outcome in outcomes if not outcome.equal or outcome.lost or outcome.doubled] == []
    assert sum(outcome.reached for outcome in outcomes) >= 8


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_nothing_is_lost_or_done_twice_at_two_hundred_kill_points(tmp_path: Path) -> None:
    assert main(Config(points=200, seed=3, output=tmp_path)) == 0


def test_a_run_that_did_less_or_twice_is_noticed(tmp_path: Path) -> None:
    base = make_scenario(tmp_path / "base")
    whole, less = base.copy(tmp_path / "whole"), base.copy(tmp_path / "less")
    assert (ending_of(base).lost, doubled(base)) == (4, 0)
    for scenario, limit in ((whole, None), (less, 1)):
        options = {"workspace": scenario.root, "watch": scenario.inbox, "workers": 0, "until_empty": True}
        unlearn(UnlearnConfig(**options, residual_budget=1e9, max_interactions=limit))
    assert ending_of(whole).lost == doubled(whole) == 0
    assert ending_of(less) != ending_of(whole)
    assert ending_of(less).lost > 0
