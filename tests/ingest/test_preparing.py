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
from ifru_dist.ingest.memory import Budget
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import prepare, preparing
from ifru_dist.workspace.dataset import commit_first, write_dataset
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
    budget=st.builds(Budget, chunk_rows=st.integers(1, 100), bucket_rows=st.integers(1, 100)),
)
@settings(max_examples=60, deadline=None)
def test_any_chunks_and_buckets_give_what_eager_pandas_gives(
    frames: list[pd.DataFrame],
    k: int,
    split: tuple[float, float, float],
    seed: int,
    row_group_size: int,
    budget: Budget,
) -> None:
    fields = tuple(name for name in ("hour", "device") if name in frames[0])
    expected = prepare_eagerly(pd.concat(frames, ignore_index=True), 3.0, k, split, seed, fields)
    rows = expected.counts["rows_after_k_core"]
    with tempfile.TemporaryDirectory() as name:
        logs = write_parquet(Path(name) / "logs", frames, row_group_size)
        options = {"k_core": k, "split": split, "seed": seed, "fields": fields}
        if not expected.parts["train"]:
            with pytest.raises(InputError):
                prepared(logs, Path(name), budget=budget, **options)
            return
        actual = prepared(logs, Path(name), budget=budget, **options)
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


_TEXTS = pd.Series([f"user {number}" for number in range(200)])


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("fields", [(), ("hour",)])
@pytest.mark.parametrize("budget", [Budget(40, 90), Budget(200, 25), Budget(10**6, 10**6)])
def test_the_files_are_those_of_the_data_in_memory_whatever_the_budget(
    tmp_path: Path, budget: Budget, fields: tuple[str, ...], scheduler: str
) -> None:
    frames = [frame.assign(hour=frame["item"] % 5, user=_TEXTS[frame["user"]].to_numpy()) for frame in _frames(7)]
    logs = write_parquet(tmp_path / "logs", frames, row_group_size=37)
    options = {"k_core": 3, "fields": fields}
    expected, found = Workspace(tmp_path / "in-memory"), Workspace(tmp_path / "spilled")
    with expected.lock("test"):
        write_dataset(expected, prepared(logs, tmp_path, **options).dataset, partitions=7)
    chosen = PrepareOptions(logs=str(logs), positive_threshold=3.0, **options)
    spilled = tmp_path / "scratch"
    with found.lock("test"):
        with preparing(
            chosen, scheduler, tmp_path / "bad.parquet", spilled, lambda line: None, budget=budget
        ) as preparation:
            files = preparation.write(found.root, partitions=7)
        commit_first(found, files, None, (), preparation.counts)
    assert not spilled.exists()
    assert found.manifest().extra == expected.manifest().extra
    assert found.manifest().files() == expected.manifest().files()
    found.verify(found.manifest())


@pytest.mark.parametrize("partitions", [1, 300])
def test_partitions_without_rows_and_a_single_one_are_written(tmp_path: Path, partitions: int) -> None:
    logs = write_parquet(tmp_path / "logs", _frames(8))
    expected, found = Workspace(tmp_path / "in-memory"), Workspace(tmp_path / "spilled")
    with expected.lock("test"):
        write_dataset(expected, prepared(logs, tmp_path).dataset, partitions)
    chosen = PrepareOptions(logs=str(logs), positive_threshold=3.0)
    place = tmp_path / "bad.parquet", tmp_path / "scratch", lambda line: None
    with preparing(chosen, "threads", *place, budget=Budget(64, 50)) as preparation, found.lock("test"):
        commit_first(found, preparation.write(found.root, partitions), None, (), {})
    assert found.manifest().files() == expected.manifest().files()


def test_a_given_split_does_not_depend_on_the_budget(tmp_path: Path) -> None:
    names = {"train": "logs", "valid": "valid", "test": "test"}
    for seed, name in enumerate(names):
        write_parquet(tmp_path / name, _frames(seed), row_group_size=50)
    given = {name: str(tmp_path / name) for name in ("valid", "test")}
    results = [
        prepared(tmp_path / "train", tmp_path, budget=budget, **given)
        for budget in (None, Budget(100, 150), Budget(500, 60))
    ]
    for result in results[1:]:
        assert all_examples(result.dataset) == all_examples(results[0].dataset)
        assert result.counts == results[0].counts


def test_a_folder_with_one_file_cut_off_is_refused_by_its_name(tmp_path: Path) -> None:
    frames = [frame for seed in range(50) for frame in _frames(seed)]
    logs = write_parquet(tmp_path / "logs", frames)
    whole = (logs / "part-57.parquet").read_bytes()
    (logs / "part-57.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"part-57\.parquet cannot be read as Parquet"):
        prepared(logs, tmp_path)


def test_a_page_that_was_altered_is_found_while_reading_and_its_file_is_named(tmp_path: Path) -> None:
    logs = write_parquet(tmp_path / "logs", [_frames(seed)[0] for seed in range(20)])
    path = logs / "part-13.parquet"
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"part-13\.parquet cannot be read as Parquet"):
        prepared(logs, tmp_path, budget=Budget(64, 64))
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("column", "told"), [("user", "ids in column 'user' are integers in .* but strings in"), ("item", "strings")]
)
def test_an_id_column_that_changes_its_type_half_way_names_both_files(tmp_path: Path, column: str, told: str) -> None:
    write_parquet(tmp_path / "logs", [_frames(seed)[0] for seed in range(9)])
    path = tmp_path / "logs" / "part-5.parquet"
    table = pq.read_table(path)
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, table.column(column).cast(pa.string())), path)
    with pytest.raises(InputError, match=rf"{told}[^:]*part-5\.parquet: write all files with the same type"):
        prepared(tmp_path / "logs", tmp_path)


def test_a_rating_column_of_another_type_half_way_is_read_and_what_is_no_number_set_apart(tmp_path: Path) -> None:
    write_parquet(tmp_path / "logs", [_frames(seed)[0] for seed in range(6)])
    expected = prepared(tmp_path / "logs", tmp_path)
    path = tmp_path / "logs" / "part-3.parquet"
    table = pq.read_table(path)
    texts = [*map(str, table.column("rating").to_pylist()[:-1]), "five"]
    pq.write_table(table.set_column(2, "rating", pa.array(texts)), path)
    found = prepared(tmp_path / "logs", tmp_path, budget=Budget(64, 64))
    assert found.counts["quarantined"] == {"bad_rating": 1}
    assert found.counts["rows_read"] == expected.counts["rows_read"]
    assert pq.read_table(tmp_path / "bad.parquet").column("file").to_pylist() == [str(path)]


def test_of_one_per_cent_null_ids_every_one_is_set_apart_and_nothing_else_is_lost(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    users = [None if rng.random() < 0.01 else int(rng.integers(0, 99)) for _ in range(20_000)]
    frame = pd.DataFrame({"user": pd.Series(users, dtype=object), "item": range(20_000), "rating": 5.0})
    logs = write_parquet(tmp_path / "logs", [frame[:9000], frame[9000:]], row_group_size=700)
    counts = prepared(logs, tmp_path, budget=Budget(900, 500), max_bad_share=0.02).counts
    bad = pq.read_table(tmp_path / "bad.parquet").to_pylist()
    gone = [row for row, user in enumerate(users) if user is None]
    expected = [("part-0.parquet", row) if row < 9000 else ("part-1.parquet", row - 9000) for row in gone]
    assert len(expected) > 150
    assert [(Path(row["file"]).name, row["row"]) for row in bad] == expected
    assert {row["reason"] for row in bad} == {"null_user"}
    kept = counts["train"] + counts["valid"] + counts["test"] + sum(counts["dropped_unseen"].values())
    assert kept == 20_000 - len(expected)


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
