import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.synthetic import SyntheticConfig, generate, interactions
from ifru_dist.errors import ConfigError
from ifru_dist.interactions import Interactions
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.training.loop import TrainOptions, fit

SMALL = {"output": Path("unused"), "interactions": 5_003, "users": 300, "items": 200}
BLOCKS = {**SMALL, "block": 1_000}


@pytest.fixture(scope="module")
def default() -> pd.DataFrame:
    return interactions(SyntheticConfig(output=Path("unused"), seed=7))


def test_columns_and_ranges(default: pd.DataFrame) -> None:
    assert list(default.columns) == ["user", "item", "rating", "timestamp"]
    assert len(default) == 200_000
    assert not default.isna().any(axis=None)
    assert default["user"].between(0, 3_999).all()
    assert default["item"].between(0, 2_999).all()
    assert set(default["rating"]) == set(range(1, 11))
    assert default["timestamp"].is_monotonic_increasing


def test_no_pair_occurs_twice(default: pd.DataFrame) -> None:
    assert not default.duplicated(["user", "item"]).any()


def test_labels_are_balanced(default: pd.DataFrame) -> None:
    assert 0.4 < (default["rating"] > 5).mean() < 0.6


def test_popularity_and_activity_are_skewed(default: pd.DataFrame) -> None:
    for column, share in (("item", 0.3), ("user", 0.1)):
        counts = default.groupby(column).size().sort_values(ascending=False)
        assert counts.iloc[: len(counts) // 50].sum() > share * len(default)
        assert (counts >= 5).mean() > 0.95


def test_popularity_exponent_decides_the_skew() -> None:
    def largest(exponent: float) -> int:
        return interactions(SyntheticConfig(**SMALL, popularity_exponent=exponent)).groupby("item").size().max()

    assert largest(0.0) < largest(0.7) < largest(1.3)


def test_popularity_does_not_change_over_time(default: pd.DataFrame) -> None:
    hundred = default.groupby("item").size().nlargest(100).index
    popular = default["item"].isin(hundred).to_numpy()
    assert popular[:100_000].mean() == pytest.approx(popular[100_000:].mean(), abs=0.01)


def test_the_seed_decides() -> None:
    first, again = (interactions(SyntheticConfig(**SMALL, seed=5)) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(interactions(SyntheticConfig(**SMALL, seed=6)))


def test_users_are_active_by_a_log_normal_law(default: pd.DataFrame) -> None:
    logarithms = np.log(default.groupby("user").size().nlargest(3_000))  # of the least active counting noise is more
    middle, lowest = np.log(50) - 0.5 + np.array([0.0, -0.6745])  # median and quartile of 50 a user, sigma = 1
    assert np.quantile(np.append(logarithms, np.full(1_000, -1)), 0.5) == pytest.approx(middle, abs=0.1)
    assert logarithms.min() == pytest.approx(lowest, abs=0.1)
    assert logarithms.max() == pytest.approx(middle + 3.5, abs=0.6)  # of 4,000 users


def test_items_are_drawn_by_zipf_s_law_as_far_as_nobody_has_one_twice() -> None:
    few_each = SyntheticConfig(output=Path("unused"), interactions=20_000, users=20_000, items=100_000, seed=2)
    shares = np.sort(interactions(few_each).groupby("item").size())[::-1] / 20_000
    expected = 1 / np.arange(1, 101) / (1 / np.arange(1, 100_001)).sum()
    assert shares[0] < expected[0]  # a user that draws several items has the first one once
    assert shares[0] == pytest.approx(expected[0], rel=0.2)
    assert shares[20:100].sum() == pytest.approx(expected[20:].sum(), rel=0.1)


def test_a_steep_law_still_gives_each_user_as_many_items_as_it_is_to_have() -> None:
    steep = SyntheticConfig(output=Path("unused"), interactions=4_000, users=20, items=300, popularity_exponent=2.0)
    logs = interactions(steep)  # most of them cannot be drawn by waiting for new ones
    assert len(logs) == 4_000
    assert not logs.duplicated(["user", "item"]).any()


def test_all_pairs_that_there_are() -> None:
    logs = interactions(SyntheticConfig(output=Path("unused"), interactions=12, users=3, items=4))
    assert len(logs.drop_duplicates(["user", "item"])) == 12


def test_a_folder_holds_the_same_bytes_by_any_number_of_processes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for processes, folder in enumerate(folders, start=1):
        generate(SyntheticConfig(**BLOCKS | {"output": folder}, hours=3, processes=processes))
    parts = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert len(parts[0]) >= 4
    assert parts[0] == parts[1]


def test_a_folder_holds_what_a_file_would(tmp_path: Path) -> None:
    config = SyntheticConfig(**BLOCKS | {"output": tmp_path / "folder"})
    generate(config)
    of_blocks = [pd.read_parquet(path) for path in sorted((tmp_path / "folder").iterdir())]
    users = [set(part["user"]) for part in of_blocks]
    assert all(part["timestamp"].is_monotonic_increasing for part in of_blocks)
    assert sum(map(len, users)) == len(set().union(*users))  # each user in one block
    together = pd.concat(of_blocks).sort_values("timestamp", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(together, interactions(config))
    assert len(together) == 5_003
    assert not together.duplicated(["user", "item"]).any()


def test_the_share_of_the_most_popular_item_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SyntheticConfig(**BLOCKS | {"output": tmp_path / "folder"})
    share = generate(config)
    logs = interactions(config)
    assert share == logs.groupby("item").size().max() / 5_003
    printed = capsys.readouterr().out
    assert f"5003 interactions of {logs['user'].nunique()} users and {logs['item'].nunique()} items" in printed
    assert f"the most popular item has {share:.2%} of them" in printed


def test_a_folder_that_holds_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part-00009.parquet").write_bytes(b"of another run")
    with pytest.raises(ConfigError, match=r"--output = .*: the folder holds files: name another one"):
        generate(SyntheticConfig(**BLOCKS | {"output": tmp_path}))
    assert len(list(tmp_path.iterdir())) == 1


def test_hours_are_a_further_field_that_decides_ratings(default: pd.DataFrame) -> None:
    logs = interactions(SyntheticConfig(output=Path("unused"), seed=7, hours=24))
    assert list(logs.columns) == [*default.columns, "hour"]
    pd.testing.assert_frame_equal(logs[["user", "item", "timestamp"]], default[["user", "item", "timestamp"]])
    assert logs["hour"].between(0, 23).all()
    label = logs["rating"] > 5
    assert 0.4 < label.mean() < 0.6
    assert label.groupby(logs["hour"]).mean().std() > 0.05  # 0.005 if hours did not decide
    popular = logs["item"].isin(logs.groupby("item").size().nlargest(20).index)
    of_item = label[popular].groupby([logs["item"], logs["hour"]]).mean().unstack()
    assert (of_item.sub(of_item.mean(axis=1), axis=0) - of_item.mean()).std(axis=None) > 0.1  # 0.05 from noise alone


def test_a_factor_model_learns_from_it(default: pd.DataFrame) -> None:
    rows = np.stack([default["user"], 4_000 + default["item"]], axis=1)
    data = Interactions(rows, (default["rating"] > 5).to_numpy(dtype=np.float32))
    held_out = np.random.default_rng(1).random(len(data)) < 0.2
    options = TrainOptions(epochs=4, learning_rate=0.01)
    validation = auc_validation(data.take(held_out))
    fitted = fit(ModelSpec(dim=8), (4_000, 3_000), data.take(~held_out), validation, options, show_progress=False)
    assert fitted.valid is not None
    assert fitted.valid > 0.72


def test_more_than_users_and_items_can_have() -> None:
    with pytest.raises(ConfigError, match=r"--interactions = 9: 2 users and 4 items .* raise --users"):
        interactions(SyntheticConfig(output=Path("unused"), interactions=9, users=2, items=4))


def test_an_option_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--users = 0"):
        generate(SyntheticConfig(output=tmp_path / "x.parquet", users=0))
    assert not (tmp_path / "x.parquet").exists()


def test_runs_as_a_program(tmp_path: Path) -> None:
    output = tmp_path / "new" / "logs.parquet"
    run_program("--interactions", "500", "--seed", "7", "--output", str(output))
    assert len(pd.read_parquet(output)) == 500


def test_the_program_fails_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_program("--interactions", "0", "--output", str(tmp_path / "logs.parquet"))
    assert raised.value.stderr.startswith("--interactions = 0: ")
    assert raised.value.stderr.count("\n") == 1


def run_program(*arguments: str) -> None:
    command = [sys.executable, "-m", "benchmarks.synthetic", *arguments]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
