import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import ConfigError, InputError
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import prepare
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.store import Workspace
from tests.ingest.eager import prepare_eagerly, usable
from tests.ingest.logs import all_examples, prepared, write_csv, write_parquet

_RATINGS = st.sampled_from([0.0, 1.0, 3.0, 3.5, 5.0, float("nan"), float("inf"), None])
_INTEGER_IDS = st.one_of(st.none(), st.integers(-2, 6))
_STRING_IDS = st.one_of(st.none(), st.sampled_from(["", " ", "a", "b", "0012", "12", "ä", "a b"]))


@st.composite
def _logs(draw: Any) -> list[pd.DataFrame]:
    """One to three files of rows with nulls, duplicates and unusable ratings, with or without timestamps and fields."""
    ids = draw(st.sampled_from([_INTEGER_IDS, _STRING_IDS]))
    further = draw(st.sampled_from([{}, {"hour": _INTEGER_IDS}, {"hour": _INTEGER_IDS, "device": _STRING_IDS}]))
    row = st.tuples(ids, ids, *further.values(), _RATINGS, st.integers(0, 3))
    names = ["user", "item", *further, "rating", "timestamp"]
    files = draw(st.lists(st.lists(row, min_size=1, max_size=30), min_size=1, max_size=3))
    frames = [pd.DataFrame(rows, columns=names, dtype=object) for rows in files]
    return frames if draw(st.booleans()) else [frame.drop(columns="timestamp") for frame in frames]


@given(
    frames=_logs(),
    k=st.integers(1, 3),
    split=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.34, 0.33, 0.33), (1.0, 0.0, 0.0)]),
    seed=st.integers(0, 5),
    row_group_size=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_dask_gives_what_eager_pandas_gives(
    frames: list[pd.DataFrame], k: int, split: tuple[float, float, float], seed: int, row_group_size: int
) -> None:
    fields = tuple(name for name in ("hour", "device") if name in frames[0])
    expected = prepare_eagerly(pd.concat(frames, ignore_index=True), 3.0, k, split, seed, fields)
    rows = expected.counts["rows_after_k_core"]
    with tempfile.TemporaryDirectory() as name:
        logs = write_parquet(Path(name) / "logs", frames, row_group_size)
        options = {"k_core": k, "split": split, "seed": seed, "fields": fields}
        if not expected.parts["train"]:
            with pytest.raises(InputError):
                prepared(logs, Path(name), **options)
            return
        actual = prepared(logs, Path(name), **options)
        n_quarantined = pq.read_metadata(Path(name) / "bad.parquet").num_rows
    assert all_examples(actual.dataset) == expected.parts
    assert actual.dataset.tables == ("user", "item", *fields)
    assert list(actual.counts["fields"]) == list(fields)
    assert actual.counts["rows_after_k_core"] == rows
    assert actual.counts["duplicates"] == expected.counts["duplicates"]
    assert sum(actual.counts["dropped_unseen"].values()) == expected.counts["dropped_unseen"]
    assert sum(actual.counts["quarantined"].values()) == n_quarantined == expected.counts["quarantined"]


def _frames(seed: int, with_time: bool = True) -> list[pd.DataFrame]:
    """Two clean files with integer ids and some duplicates."""
    rng = np.random.default_rng(seed)
    columns = {
        "user": rng.integers(0, 40, 300) * 3,
        "item": rng.integers(0, 30, 300) + 1000,
        "rating": rng.integers(0, 6, 300).astype(float),
        "timestamp": rng.integers(0, 50, 300).astype(float),
    }
    logs = pd.DataFrame(columns) if with_time else pd.DataFrame(columns).drop(columns="timestamp")
    return [logs.iloc[:170], logs.iloc[170:]]


def test_schedulers_agree(tmp_path: Path) -> None:
    logs = write_parquet(tmp_path / "logs", _frames(1), row_group_size=16)
    results = [prepared(logs, tmp_path, scheduler) for scheduler in ("threads", "synchronous")]
    assert all_examples(results[0].dataset) == all_examples(results[1].dataset)
    assert results[0].counts == results[1].counts


@pytest.mark.parametrize(("k", "told"), [(1, "rows are left"), (2, "rows are left after the 2-core")])
def test_the_core_is_told_where_one_is_asked_for(tmp_path: Path, k: int, told: str) -> None:
    logs, lines = write_csv(tmp_path / "logs", _frames(1)), list[str]()
    options = PrepareOptions(logs=str(logs), positive_threshold=3.0, max_bad_share=1.0, k_core=k)
    prepare(options, "threads", tmp_path / "bad.parquet", lines.append)
    assert [line for line in lines if line.endswith(told)]


def test_csv_and_parquet_give_the_same_files(tmp_path: Path) -> None:
    written = []
    for kind, logs in (
        ("csv", write_csv(tmp_path / "logs-csv", _frames(2))),
        ("parquet", write_parquet(tmp_path / "logs-parquet", _frames(2), row_group_size=50)),
    ):
        workspace = Workspace(tmp_path / kind)
        with workspace.lock("test"):
            written.append(write_dataset(workspace, prepared(logs, tmp_path, k_core=3).dataset, partitions=7))
    assert [entry.sha256 for entry in written[0].files()] == [entry.sha256 for entry in written[1].files()]


def test_ids_are_sorted_and_keep_their_kind(tmp_path: Path) -> None:
    rows = {"user": [10, 9, 2], "item": ["0012", "12", "9"], "rating": [5.0, 1.0, 5.0]}
    for logs in (
        write_parquet(tmp_path / "parquet", [pd.DataFrame(rows)]),
        write_csv(tmp_path / "csv", [pd.DataFrame(rows)]),
    ):
        users, items = prepared(logs, tmp_path, split=(1.0, 0.0, 0.0)).dataset.ids
        assert users.equals(pa.array([2, 9, 10], pa.int64()))
        assert items.equals(pa.array(["0012", "12", "9"], pa.large_string()))


def test_a_given_split_keeps_every_training_row_in_file_order(tmp_path: Path) -> None:
    def part(name: str, users: list[str], items: list[str], labels: list[int]) -> str:
        write_csv(tmp_path / name, [pd.DataFrame({"user": users, "item": items, "label": labels, "timestamp": "x"})])
        return str(tmp_path / name)

    train = part("train", ["b", "a", "b", "b"], ["x", "y", "x", "x"], [1, 0, 0, 1])
    valid = part("valid", ["a", "c"], ["x", "x"], [1, 1])
    test = part("test", ["b", "a", "a"], ["z", "y", "x"], [1, 0, 0])
    result = prepared(Path(train), tmp_path, valid=valid, test=test, label_column="label", positive_threshold=None)
    assert all_examples(result.dataset) == {
        "train": [("b", "x", 1), ("a", "y", 0), ("b", "x", 0), ("b", "x", 1)],
        "valid": [("a", "x", 1)],
        "test": [("a", "y", 0), ("a", "x", 0)],
    }
    assert result.counts["dropped_unseen"] == {"valid": 1, "test": 1}
    assert result.counts["positive_share"] == {"train": 0.5, "valid": 1.0, "test": 0.0}
    alone = prepared(Path(train), tmp_path, test=test, label_column="label", positive_threshold=None)
    assert all_examples(alone.dataset) == {**all_examples(result.dataset), "valid": []}
    assert alone.counts["positive_share"] == {"train": 0.5, "valid": None, "test": 0.0}


def test_a_pair_keeps_the_fields_of_its_last_row(tmp_path: Path) -> None:
    columns = {"user": [1, 1, 2], "item": [7, 7, 7], "hour": [5, 6, 5], "rating": 5.0, "timestamp": [2.0, 1.0, 0.0]}
    logs = write_parquet(tmp_path / "logs", [pd.DataFrame(columns)])
    dataset = prepared(logs, tmp_path, split=(1.0, 0.0, 0.0), fields=("hour",)).dataset
    assert sorted(all_examples(dataset)["train"]) == [(1, 7, 5, 1), (2, 7, 5, 1)]
    assert dataset.ids[2].to_pylist() == [5]


def test_a_given_split_has_fields_too_and_drops_held_out_rows_with_unseen_values(tmp_path: Path) -> None:
    def part(name: str, users: list[str], hours: list[str]) -> str:
        frame = pd.DataFrame({"user": users, "item": "x", "hour": hours, "device": "phone", "label": 1})
        write_csv(tmp_path / name, [frame])
        return str(tmp_path / name)

    parts = {
        "valid": part("valid", ["a", "b"], ["9", "10"]),
        "test": part("test", ["a", "a", "c"], ["9", "7", "9"]),
    }
    train = Path(part("train", ["b", "a", "b"], ["10", "9", "10"]))
    options = {"label_column": "label", "positive_threshold": None, "fields": ("hour", "device")}
    result = prepared(train, tmp_path, **parts, **options)
    assert all_examples(result.dataset) == {
        "train": [("b", "x", 10, "phone", 1), ("a", "x", 9, "phone", 1), ("b", "x", 10, "phone", 1)],
        "valid": [("a", "x", 9, "phone", 1), ("b", "x", 10, "phone", 1)],
        "test": [("a", "x", 9, "phone", 1)],
    }
    assert result.dataset.ids[2].equals(pa.array([9, 10], pa.int64()))
    assert result.counts["fields"] == {"hour": 2, "device": 1}
    assert result.counts["dropped_unseen"] == {"valid": 0, "test": 2}


def test_the_threshold_is_strict(tmp_path: Path) -> None:
    rows = pd.DataFrame({"user": [1, 1, 1], "item": [1, 2, 3], "rating": [2.0, 3.0, 3.1]})
    logs = write_parquet(tmp_path / "logs", [rows])
    dataset = prepared(logs, tmp_path, split=(1.0, 0.0, 0.0)).dataset
    assert sorted(all_examples(dataset)["train"]) == [(1, 1, 0), (1, 2, 0), (1, 3, 1)]


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    first = pd.DataFrame({"user": [1], "item": [1], "rating": [5.0]})
    write_csv(tmp_path / "logs", [first, first.assign(rating=0.0)])
    assert all_examples(prepared(tmp_path / "logs", tmp_path, split=(1.0, 0.0, 0.0)).dataset)["train"] == [(1, 1, 0)]
    (tmp_path / "logs" / "part-0.csv").rename(tmp_path / "logs" / "part-2.csv")
    assert all_examples(prepared(tmp_path / "logs", tmp_path, split=(1.0, 0.0, 0.0)).dataset)["train"] == [(1, 1, 1)]


def test_too_many_bad_rows_stop_with_share_reasons_and_file(tmp_path: Path) -> None:
    columns = {"user": [1, None, 3, 4], "item": [1, 1, 1, None], "rating": [5.0, 1.0, float("nan"), 2.0]}
    logs = write_parquet(tmp_path / "logs", [pd.DataFrame(columns, dtype=object)])
    with pytest.raises(InputError, match=r"3 of 4 rows \(75.00%\).*1 bad_rating, 1 null_item, 1 null_user") as caught:
        prepared(logs, tmp_path, max_bad_share=0.7)
    assert str(tmp_path / "bad.parquet") in str(caught.value)
    assert pq.read_metadata(tmp_path / "bad.parquet").num_rows == 3
    prepared(logs, tmp_path, max_bad_share=0.75, split=(1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_core": 50}, "--k-core 50 leaves no rows of 300"),
        ({"user_column": "users"}, "no column 'users'; it has: user, item, rating, timestamp. Name .* --user-column"),
        ({"timestamp_column": "time"}, "no column 'time'.* --timestamp-column"),
        ({"fields": ("hour",)}, "no column 'hour'.* --fields"),
        ({"label_column": "rating", "positive_threshold": None}, "cannot be used .* bad_label"),
    ],
)
def test_input_that_cannot_work_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    logs = write_parquet(tmp_path / "logs", _frames(3))
    with pytest.raises(InputError, match=message):
        prepared(logs, tmp_path, **{"max_bad_share": 0.01} | options)


def test_nothing_usable_is_an_error_even_where_all_bad_rows_are_allowed(tmp_path: Path) -> None:
    logs = write_csv(tmp_path / "logs", [pd.DataFrame({"user": ["", ""], "item": ["a", "b"], "rating": ["1", "2"]})])
    with pytest.raises(InputError, match="none of the 2 rows can be used"):
        prepared(logs, tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, kind: str) -> None:
    empty = _frames(0)[0].iloc[:0]
    logs = (write_csv if kind == "csv" else write_parquet)(tmp_path / "logs", [empty])
    with pytest.raises(InputError, match=f"part-0.{kind}: no rows"):
        prepared(logs, tmp_path)


def test_a_training_share_without_rows_is_an_error(tmp_path: Path) -> None:
    logs = write_csv(tmp_path / "logs", [pd.DataFrame({"user": [1], "item": [1], "rating": [1.0]})])
    with pytest.raises(InputError, match=r"the training part has no usable rows \(1 in all\)"):
        prepared(logs, tmp_path)


def test_contradicting_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--split 0\.5 0\.2 0\.2"):
        prepared(tmp_path / "nowhere", tmp_path, split=(0.5, 0.2, 0.2))


def test_the_quarantine_file_is_there_and_empty_when_all_rows_are_good(tmp_path: Path) -> None:
    frames = _frames(4)
    assert all(usable(frame).all() for frame in frames)
    assert prepared(write_parquet(tmp_path / "logs", frames), tmp_path).counts["quarantined"] == {}
    assert pq.read_metadata(tmp_path / "bad.parquet").num_rows == 0


@pytest.mark.slow
def test_the_protocol_of_the_paper_on_bookcrossing(shared_data: Path, tmp_path: Path) -> None:
    logs = shared_data / "bookcrossing.parquet"
    counts = prepared(logs, tmp_path, positive_threshold=5.0, k_core=5, seed=1024).counts
    assert counts["rows_after_k_core"] == 585_579
    assert (counts["users_after_k_core"], counts["items_after_k_core"]) == (15_798, 38_093)
    assert counts["train"] == 351_347
