from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import gowalla
from benchmarks.gowalla import Config, choose_erased, main, prepare


def checkins(n_users: int = 60, n_items: int = 40) -> pd.DataFrame:
    """Users of two kinds who go to places of their kind, a fifth of the check-ins for testing."""
    generator = np.random.default_rng(3)
    pairs = np.argwhere(generator.random((n_users, n_items)) < 0.5)
    pairs = pairs[pairs[:, 0] % 2 == pairs[:, 1] % 2]
    split = (generator.random(len(pairs)) < 0.2).astype(np.int8)
    return pd.DataFrame({"user": pairs[:, 0], "item": pairs[:, 1], "split": split})


def test_the_parts_are_those_of_the_file_and_all_positive(tmp_path: Path) -> None:
    data = checkins()
    data.to_parquet(tmp_path / "checkins.parquet")
    prepare(tmp_path / "checkins.parquet", tmp_path)
    for split, name in enumerate(("train", "test")):
        part = pd.read_parquet(tmp_path / f"{name}.parquet")
        expected = data.loc[data["split"] == split, ["user", "item"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(part[["user", "item"]], expected)
        assert (part["label"] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("recall", "said", "users"), [(0.5, "reached", 8), (1.1, "NOT reached", 0)])
def test_the_figures_are_held_against_the_target(
    tmp_path: Path,
    recall: float,
    said: str,
    users: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gowalla, "RECALL", recall)
    checkins().to_parquet(tmp_path / "checkins.parquet")
    quick = {"train_options": ("--epochs=4",), "erase_users": users}
    main(Config(data=tmp_path / "checkins.parquet", output=tmp_path / "results", **quick))
    shown = capsys.readouterr().out
    assert f"within 40 minutes: {said}\n" in shown
    assert ("erased items among the user's first 20: original" in shown) == (users > 0)
    (result,) = (tmp_path / "results").iterdir()
    assert '"stopped_by": "epochs"' in result.read_text()


def test_data_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"absent: give the place of Gowalla's check-ins with --data"):
        main(Config(data=tmp_path / "none.parquet"))


def test_half_of_some_users_check_ins_are_erased() -> None:
    train = checkins()[["user", "item"]]
    erased = choose_erased(train, 12)
    assert erased["user"].nunique() == 12
    for user, items in erased.groupby("user")["item"]:
        theirs = train.loc[train["user"] == user, "item"]
        assert set(items) <= set(theirs)
        assert abs(len(items) - len(theirs) / 2) <= 0.5
