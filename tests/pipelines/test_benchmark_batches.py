"""The users that a benchmark erases: nobody twice, the same for the same seed, the active ones more often."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.benchmark_batches import BatchDraw
from ifru_dist.pipelines.benchmark_config import BenchmarkConfig, CellPlan
from ifru_dist.workspace.version import Version
from tests.pipelines.small import SIZES, small_interactions, small_workspace
from tests.workspaces import item_id, user_id


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_workspace(tmp_path_factory.mktemp("batches") / "ws")


def draw_of(version: Version, **changes: float) -> BatchDraw:
    return BatchDraw(version, **{"seed": 0, "activity": 1.0, "share": 1.0} | changes)


def test_whole_users_nobody_twice(version: Version) -> None:
    batches = draw_of(version).draw(4, 5)
    assert [len(batch) for batch in batches] == [4] * 5
    requests = [request for batch in batches for request in batch]
    assert {(request.scope, request.item, request.request_id) for request in requests} == {("user", None, None)}
    named = [request.user for request in requests]
    assert len(set(named)) == len(named)
    assert set(named) <= {str(user_id(row)) for row in np.unique(small_interactions().rows[:, 0])}


def test_the_seed_says_who_whatever_else_is_drawn(version: Version) -> None:
    draw = draw_of(version)
    once = draw.draw(3, 4)
    draw.draw(2, 4)
    assert draw.draw(3, 4) == once == draw_of(version).draw(3, 4)
    assert draw_of(version, seed=1).draw(3, 4) != once


@pytest.mark.parametrize(("activity", "likelier"), [(2.0, True), (0.0, False)])
def test_who_is_active_is_drawn_in_proportion_to_a_power(version: Version, activity: float, likelier: bool) -> None:
    counts = Counter(small_interactions().rows[:, 0].tolist())
    usual = np.mean(list(counts.values()))
    first = [draw_of(version, activity=activity, seed=seed).draw(1, 1)[0][0].user for seed in range(300)]
    seen = np.mean([counts[(int(name) - user_id(0)) // 7] for name in first])
    assert (seen > 1.2 * usual) == likelier


def test_a_share_of_the_pairs_of_each_user(version: Version) -> None:
    batch = draw_of(version, share=0.5).draw(5, 2)[0]
    rows = small_interactions().rows
    pairs: dict[str, set[str]] = {}
    for user, item in rows:
        pairs.setdefault(str(user_id(int(user))), set()).add(item_id(int(item) - SIZES[0]))
    asked = Counter(request.user for request in batch)
    assert len(asked) == 5
    for user, count in asked.items():
        named = {request.item for request in batch if request.user == user}
        assert len(named) == count == max(1, round(len(pairs[user]) / 2))
        assert named <= pairs[user]
    assert {request.scope for request in batch} == {"interaction"}


def plan_of(version: Version, **changes: object) -> CellPlan:
    config = BenchmarkConfig(**{"workspace": Path("ws"), "repeats": 2, "warm_up": 1} | changes)
    return CellPlan.of(config, draw_of(version))


def test_cells_are_all_workers_by_all_sizes_and_what_weak_scaling_needs(version: Version) -> None:
    # 40 users, of whom the batches of a cell may take half: 6 in each of three.
    plan = plan_of(version, workers=(2, 0, 1, 2), batch_sizes=(1, 3))
    assert plan.weak_base == 3
    assert plan.cells == ((0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 3), (2, 6))
    assert plan_of(version, workers=(1, 2), batch_sizes=(1, 6)).weak_base == 1
    assert plan_of(version, workers=(1, 2), batch_sizes=(6,)).weak_base is None
    assert plan_of(version, workers=(1, 2), batch_sizes=(1, 3), weak_batch_size=0).weak_base is None
    assert plan_of(version, workers=(0, 2), batch_sizes=(3,)).cells == ((0, 3), (2, 3))


def test_default_sizes_that_are_too_large_are_left_out_and_named(version: Version) -> None:
    plan = plan_of(version, workers=(0,))
    assert plan.cells == ((0, 1),)
    assert plan.notes == ("no batches of 10, 100, 1000 users: 3 batches may take half of the 40 users",)


@pytest.mark.parametrize(
    "changes", [{"batch_sizes": (7,)}, {"batch_sizes": (1,), "weak_batch_size": 7, "workers": (1, 2)}]
)
def test_more_users_than_there_are(version: Version, changes: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=r"--batch-sizes = (7|14): 3 batches .* of 6 users at most, or fewer --repeats"
    ):
        plan_of(version, **changes)
