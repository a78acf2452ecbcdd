from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.protocol import BOOKCROSSING, Protocol, prepare, require_data, split

CASE = Protocol(title="synthetic", file="ratings.parquet", positive_above=3)


def ratings(n_users: int = 50, n_items: int = 40) -> pd.DataFrame:
    """One rating each of a random half of all pairs, and one pair whose user and item have no other."""
    rng = np.random.default_rng(3)
    pairs = np.argwhere(rng.random((n_users, n_items)) < 0.5)
    known = pd.DataFrame({"user": pairs[:, 0], "item": pairs[:, 1], "rating": rng.integers(1, 6, len(pairs))})
    return pd.concat([known, pd.DataFrame({"user": [n_users], "item": [n_items], "rating": [5]})], ignore_index=True)


def as_pairs(frame: pd.DataFrame) -> set[tuple[int, int]]:
    return set(frame[["user", "item"]].itertuples(index=False, name=None))


def test_sizes_of_the_parts() -> None:
    data = ratings()
    parts = split(CASE, data, share=0.1, flipped=False)
    n = len(data)
    assert len(parts.train) == int(0.6 * n)
    assert len(parts.requests) == int(0.1 * len(parts.train))
    held_out = len(parts.valid) + len(parts.test)
    assert n - len(parts.train) - 1 <= held_out <= n - len(parts.train)  # the lonely pair is in train, or dropped
    assert not as_pairs(parts.train) & (as_pairs(parts.valid) | as_pairs(parts.test))


def test_the_order_is_that_of_the_papers_shuffle() -> None:
    data = ratings()
    shuffled = data.iloc[np.random.RandomState(1024).permutation(len(data))]
    train = split(CASE, data, share=0.1, flipped=False).train
    np.testing.assert_array_equal(train[["user", "item"]], shuffled[["user", "item"]][: len(train)])
    np.testing.assert_array_equal(train["label"], shuffled["rating"][: len(train)] > 3)


def test_held_out_parts_keep_known_users_and_items_only() -> None:
    parts = split(CASE, ratings(200, 6).sample(frac=0.2, random_state=1), share=0.1, flipped=False)
    train = parts.train
    for part in (parts.valid, parts.test):
        assert len(part) > 0
        assert set(part["user"]) <= set(train["user"])
        assert set(part["item"]) <= set(train["item"])


def test_requests_are_the_last_training_rows() -> None:
    parts = split(CASE, ratings(), share=0.07, flipped=False)
    last = parts.train[-len(parts.requests) :]
    assert list(parts.requests.columns) == ["user", "item"]
    pd.testing.assert_frame_equal(parts.requests, last[["user", "item"]])


def test_flipping_changes_the_labels_of_the_requests_and_nothing_else() -> None:
    true, flipped = (split(CASE, ratings(), share=0.07, flipped=flip) for flip in (False, True))
    n_erased = len(true.requests)
    np.testing.assert_array_equal(flipped.train["label"][-n_erased:], 1 - true.train["label"][-n_erased:])
    pd.testing.assert_frame_equal(flipped.train[:-n_erased], true.train[:-n_erased])
    pd.testing.assert_frame_equal(flipped.test, true.test)
    pd.testing.assert_frame_equal(flipped.requests, true.requests)


def test_the_core_is_stable() -> None:
    core = Protocol(title="", file="", positive_above=3, core=5)
    sparse = ratings(60, 60).sample(frac=0.25, random_state=2)
    parts = split(core, sparse, share=0.1, flipped=False)
    kept = pd.concat([parts.train, parts.valid, parts.test])
    assert 0 < len(kept) < len(sparse)
    # Held-out rows of unseen users and items are dropped after the core, so only their counts may fall under it.
    known = sparse.merge(kept[["user", "item"]], on=["user", "item"])
    assert len(known) == len(kept)
    everything = split(Protocol(title="", file="", positive_above=3), sparse, share=0.1, flipped=False)
    assert len(parts.train) < len(everything.train)


def test_files_hold_the_parts(tmp_path: Path) -> None:
    data = tmp_path / CASE.file
    ratings().to_parquet(data)
    prepare(CASE, data, tmp_path, share=0.1, flipped=True)
    parts = split(CASE, ratings(), share=0.1, flipped=True)
    for name in ("train", "valid", "test", "requests"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), getattr(parts, name))


def test_absent_ratings_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"bookcrossing\.parquet: absent: .* --data-folder"):
        require_data([tmp_path / BOOKCROSSING.file])
