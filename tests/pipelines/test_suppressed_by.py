"""What was erased from a workspace does not come back with the logs of a new one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import InputError, WorkspaceError
from ifru_dist.pipelines.append import AppendConfig, append
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import one_torch_thread, request_file

_ROOT = Path(__file__).resolve().parents[2]
USER, ITEM, PAIR = 3, "i07", (5, "i02")


def logs() -> pd.DataFrame:
    """Every user with every item but one, some twice."""
    pairs = [(user, f"i{item:02d}") for user in range(12) for item in range(10) if (user + item) % 7]
    frame = pd.DataFrame(pairs + pairs[:9], columns=["user", "item"])
    frame["rating"] = np.random.default_rng(1).integers(0, 11, len(frame)) * 1.0
    return frame


def config(tmp_path: Path, name: str, **changes: Any) -> PreprocessConfig:
    options = {"logs": str(tmp_path / "logs.parquet"), "workspace": tmp_path / name, "positive_threshold": 5.0}
    return PreprocessConfig(**options | {"partitions": 4, "split": (0.8, 0.1, 0.1)} | changes)


def report_of(tmp_path: Path, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / name / "reports" / "preprocess-000001" / "report.json").read_text())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A workspace of the logs that has erased a user, an item and a pair."""
    logs().to_parquet(tmp_path / "logs.parquet")
    preprocess(config(tmp_path, "old"))
    with one_torch_thread():
        train(TrainConfig(workspace=tmp_path / "old", dim=2, epochs=1))
        requests = [
            {"user": str(USER), "item": None, "scope": "user"},
            {"user": None, "item": ITEM, "scope": "item"},
            {"user": str(PAIR[0]), "item": PAIR[1], "scope": "interaction"},
        ]
        path = request_file(tmp_path / "requests.parquet", *requests)
        unlearn(UnlearnConfig(workspace=tmp_path / "old", requests=path, workers=0, residual_budget=100))
    return tmp_path / "old"


def pairs_of(version: Version) -> set[tuple[Any, Any]]:
    """Every pair of every part, as ids."""
    users, items = (version.ids(table).to_pylist() for table in (0, 1))
    parts = [version.train(), version.held_out("valid"), version.held_out("test")]
    rows = np.concatenate([part.rows for part in parts])
    return {(users[user], items[item - len(users)]) for user, item in rows.tolist()}


def is_erased(user: Any, item: Any) -> bool:
    return user == USER or item == ITEM or (user, item) == PAIR


def test_rows_that_name_what_was_erased_are_left_out_and_counted(old: Path, tmp_path: Path) -> None:
    preprocess(config(tmp_path, "new", suppressed_by=old))
    version = open_version(Workspace(tmp_path / "new"), check_content=True)
    frame = logs()
    erased = [is_erased(*pair) for pair in zip(frame["user"], frame["item"], strict=True)]
    found = pairs_of(version)
    assert not any(is_erased(*pair) for pair in found)
    assert len(found) > 60
    assert USER not in version.ids(0).to_pylist()
    assert ITEM not in version.ids(1).to_pylist()
    report = report_of(tmp_path, "new")
    of_user, of_item = frame["user"] == USER, frame["item"] == ITEM
    of_pair = (frame["user"] == PAIR[0]) & (frame["item"] == PAIR[1])
    assert report["suppressed"] == {
        "user": int(of_user.sum()),
        "item": int((of_item & ~of_user).sum()),
        "interaction": int(of_pair.sum()),
    }
    assert sum(report["suppressed"].values()) == sum(erased)
    left = frame[~np.array(erased)].drop_duplicates(["user", "item"])
    assert report["rows_after_k_core"] == len(left)


def test_the_list_is_carried_over_with_its_key_and_applied_again(old: Path, tmp_path: Path) -> None:
    preprocess(config(tmp_path, "new", suppressed_by=old))
    assert (tmp_path / "new.key").read_bytes() == (tmp_path / "old.key").read_bytes()
    manifests = [Workspace(tmp_path / name).manifest() for name in ("old", "new")]
    assert manifests[0].key_fingerprint == manifests[1].key_fingerprint
    preprocess(config(tmp_path, "third", suppressed_by=tmp_path / "new"))
    assert report_of(tmp_path, "third")["suppressed"] == report_of(tmp_path, "new")["suppressed"]
    versions = [open_version(Workspace(tmp_path / name)) for name in ("new", "third")]
    assert pairs_of(versions[0]) == pairs_of(versions[1])


def test_a_given_split_loses_the_rows_in_every_part(old: Path, tmp_path: Path) -> None:
    frame = logs()
    parts = {"logs": frame, "valid": frame.iloc[::3], "test": frame.iloc[::4]}
    for name, part in parts.items():
        part.to_parquet(tmp_path / f"{name}.parquet")
    places = {name: str(tmp_path / f"{name}.parquet") for name in parts}
    preprocess(config(tmp_path, "new", suppressed_by=old, split=(0.6, 0.2, 0.2), **places))
    version = open_version(Workspace(tmp_path / "new"))
    sizes = [len(version.train()), len(version.held_out("valid")), len(version.held_out("test"))]
    kept = [
        sum(not is_erased(*pair) for pair in zip(part["user"], part["item"], strict=True)) for part in parts.values()
    ]
    assert sizes == kept
    assert not any(is_erased(*pair) for pair in pairs_of(version))


def test_csv_texts_and_a_key_elsewhere(old: Path, tmp_path: Path) -> None:
    logs().to_csv(tmp_path / "logs.csv", index=False)
    (tmp_path / "keys").mkdir()
    (tmp_path / "old.key").rename(tmp_path / "keys" / "k")
    changes: dict[str, Any] = {"logs": str(tmp_path / "logs.csv"), "suppressed_by": old}
    with pytest.raises(WorkspaceError, match=r"old\.key is missing"):
        preprocess(config(tmp_path, "new", **changes))
    preprocess(config(tmp_path, "new", key_file=tmp_path / "keys" / "k", **changes))
    assert not any(is_erased(*pair) for pair in pairs_of(open_version(Workspace(tmp_path / "new"))))
    assert not (tmp_path / "new.key").exists()


def test_csv_integers_with_a_fraction_are_refused_since_nothing_would_be_recognised(old: Path, tmp_path: Path) -> None:
    logs().astype({"user": float}).to_csv(tmp_path / "logs.csv", index=False)
    changes: dict[str, Any] = {"logs": str(tmp_path / "logs.csv"), "suppressed_by": old}
    with pytest.raises(InputError, match=r"ids of table user are as 12.0 in the logs, and as 12 in .*'Int64'"):
        preprocess(config(tmp_path, "new", **changes))
    assert Workspace(tmp_path / "new").versions() == []
    preprocess(config(tmp_path, "texts", logs=str(tmp_path / "logs.csv")))
    preprocess(config(tmp_path, "again", logs=str(tmp_path / "logs.csv"), suppressed_by=tmp_path / "texts"))
    with pytest.raises(InputError, match=r"ids of table user are as 12 in the logs, and as 12.0 in"):
        preprocess(config(tmp_path, "other", suppressed_by=tmp_path / "texts"))


def test_whole_floats_of_parquet_are_recognised_as_the_integers_that_were_erased(old: Path, tmp_path: Path) -> None:
    logs().astype({"user": float}).to_parquet(tmp_path / "floats.parquet")
    preprocess(config(tmp_path, "new", logs=str(tmp_path / "floats.parquet"), suppressed_by=old))
    assert not any(is_erased(*pair) for pair in pairs_of(open_version(Workspace(tmp_path / "new"))))


def test_the_quarantine_holds_nothing_that_was_erased(old: Path, tmp_path: Path) -> None:
    frame = logs()
    frame.loc[frame["user"] < USER + 1, "rating"] = np.nan
    frame.to_parquet(tmp_path / "logs.parquet")
    preprocess(config(tmp_path, "new", suppressed_by=old, max_bad_share=1))
    rows = pq.read_table(tmp_path / "new" / "quarantine" / "rows.parquet").to_pylist()
    assert {row["user"] for row in rows} == {"0", "1", "2"}
    assert not any(is_erased(int(row["user"]), row["item"]) for row in rows)
    scrubbed = report_of(tmp_path, "new")["quarantine_scrubbed"]
    assert scrubbed + len(rows) == int((frame["user"] < USER + 1).sum())


@pytest.mark.parametrize("spelling", ["as erased", "floats", "texts"])
def test_nor_does_it_where_the_logs_are_refused(old: Path, tmp_path: Path, spelling: str) -> None:
    frame = logs()
    frame.loc[frame["user"] < USER + 1, "rating"] = np.nan
    if spelling == "floats":
        frame = frame.astype({"user": float})
    frame.to_csv(tmp_path / "logs.csv", index=False)
    if spelling == "texts":  # what was erased is known as 3.0, and the logs have 3
        logs().astype({"user": float}).to_csv(tmp_path / "logs.csv", index=False)
        old = tmp_path / "of texts"
        preprocess(config(tmp_path, old.name, logs=str(tmp_path / "logs.csv")))
        with one_torch_thread():
            train(TrainConfig(workspace=old, dim=2, epochs=1))
            path = request_file(tmp_path / "requests.parquet", {"user": f"{USER}.0", "item": None, "scope": "user"})
            unlearn(UnlearnConfig(workspace=old, requests=path, workers=0, residual_budget=100))
        frame.to_csv(tmp_path / "logs.csv", index=False)
    with pytest.raises(InputError, match="max-bad-share"):
        preprocess(config(tmp_path, "new", logs=str(tmp_path / "logs.csv"), suppressed_by=old))
    rows = pq.read_table(tmp_path / "new" / "quarantine" / "rows.parquet").to_pylist()
    assert {int(float(row["user"])) for row in rows} == {0, 1, 2}
    if spelling != "texts":
        assert ITEM not in {row["item"] for row in rows}


def test_nor_does_that_of_logs_that_were_not_appended(old: Path, tmp_path: Path) -> None:
    frame = logs().assign(rating=np.nan)
    frame.to_parquet(tmp_path / "more.parquet")
    with pytest.raises(InputError, match="max-bad-share"):
        append(AppendConfig(workspace=old, logs=str(tmp_path / "more.parquet"), positive_threshold=5))
    (path,) = (old / "quarantine").glob("append-*.parquet")
    rows = pq.read_table(path).to_pylist()
    assert len(rows) > 60
    assert not any(is_erased(int(row["user"]), row["item"]) for row in rows)


def test_no_other_key_is_overwritten_and_a_damaged_list_is_refused(old: Path, tmp_path: Path) -> None:
    (tmp_path / "new.key").write_text("ab" * 32 + "\n")
    with pytest.raises(WorkspaceError, match="another key"):
        preprocess(config(tmp_path, "new", suppressed_by=old))
    assert (tmp_path / "new.key").read_text() == "ab" * 32 + "\n"
    (entry,) = Workspace(old).manifest().suppression
    content = bytearray((old / entry.path).read_bytes())
    content[len(content) // 2] ^= 1
    (old / entry.path).write_bytes(content)
    with pytest.raises(WorkspaceError, match="damaged"):
        preprocess(config(tmp_path, "other", suppressed_by=old))
    assert Workspace(tmp_path / "other").versions() == []


@pytest.mark.slow
def test_the_command(old: Path, tmp_path: Path) -> None:
    arguments = ["--logs", str(tmp_path / "logs.parquet"), "--workspace", str(tmp_path / "new")]
    arguments += ["--positive-threshold", "5", "--suppressed-by", str(old)]
    command = [sys.executable, "jobs/preprocess.py", *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "suppressed by user" in done.stdout
