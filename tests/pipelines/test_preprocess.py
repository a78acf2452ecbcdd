import json
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import ConfigError, InputError, WorkspaceBusyError, WorkspaceError
from ifru_dist.ingest import memory
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.vacuum import SPILL_FOLDER
from ifru_dist.workspace.version import open_version

_ROOT = Path(__file__).resolve().parents[2]


def _logs(path: Path, n_bad: int = 0) -> Path:
    """200 ratings of 30 users on 20 items, some of them bad."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"user": rng.integers(0, 30, 200), "item": rng.integers(0, 20, 200), "rating": rng.integers(0, 11, 200) * 1.0}
    )
    frame.loc[: n_bad - 1, "rating"] = np.nan
    frame.to_parquet(path, row_group_size=64)
    return path


def _config(tmp_path: Path, **changes: Any) -> PreprocessConfig:
    options = {"logs": str(tmp_path / "logs.parquet"), "workspace": tmp_path / "ws", "positive_threshold": 5.0}
    return PreprocessConfig(**options | {"partitions": 8} | changes)


def _job(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "jobs/preprocess.py", *arguments]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)


def test_a_workspace_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _logs(tmp_path / "logs.parquet", n_bad=2)
    preprocess(_config(tmp_path, k_core=2))
    version = open_version(Workspace(tmp_path / "ws"), check_content=True)
    report = json.loads((tmp_path / "ws" / "reports" / "preprocess-000001" / "report.json").read_text())
    assert (report["job"], report["version"], report["rows_read"], report["files"]) == ("preprocess", 1, 200, 1)
    assert report["quarantined"] == {"bad_rating": 2}
    assert (report["users"], report["items"]) == version.layout.sizes
    assert report["train"] == len(version.train())
    assert (report["valid"], report["test"]) == (len(version.held_out("valid")), len(version.held_out("test")))
    assert report["positive_share"]["train"] == pytest.approx(version.train().labels.mean(), abs=1e-6)
    assert report["duplicates"] == 198 - len(
        pd.read_parquet(tmp_path / "logs.parquet")[2:].drop_duplicates(["user", "item"])
    )
    kept = report["train"] + report["valid"] + report["test"] + sum(report["dropped_unseen"].values())
    assert report["rows_after_k_core"] == kept
    assert set(report["seconds"]) == {"read", "codes", "select", "tables", "write", "total"}
    assert report["config"]["k_core"] == 2
    assert report["config"]["split"] == [0.6, 0.2, 0.2]
    assert version.manifest.extra["rows_read"] == 200
    assert version.layout.partitions == 8
    assert pq.read_table(tmp_path / "ws" / "quarantine" / "rows.parquet").column("row").to_pylist() == [0, 1]
    summary = capsys.readouterr().out
    assert re.search(rf"training rows +\| +{report['train']} \|", summary)
    assert "quarantined: bad_rating" in summary


def test_places_can_be_chosen(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet")
    places = {
        "quarantine": tmp_path / "q" / "bad.parquet",
        "key_file": tmp_path / "k" / "key",
        "output": tmp_path / "out",
    }
    preprocess(_config(tmp_path, **places))
    assert pq.read_metadata(places["quarantine"]).num_rows == 0
    assert stat.S_IMODE(places["key_file"].stat().st_mode) == 0o600
    assert (tmp_path / "out" / "report.json").is_file()
    assert not (tmp_path / "ws.key").exists()
    assert not (tmp_path / "ws" / "reports").exists()


def test_the_key_is_made_beside_the_workspace(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet")
    preprocess(_config(tmp_path))
    assert stat.S_IMODE((tmp_path / "ws.key").stat().st_mode) == 0o600


def test_logs_that_cannot_be_used_leave_no_version_and_a_later_run_works(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet", n_bad=20)
    with pytest.raises(InputError, match=r"20 of 200 rows \(10.00%\).* see .*quarantine.rows\.parquet"):
        preprocess(_config(tmp_path))
    assert Workspace(tmp_path / "ws").versions() == []
    assert pq.read_metadata(tmp_path / "ws" / "quarantine" / "rows.parquet").num_rows == 20
    preprocess(_config(tmp_path, max_bad_share=0.1))
    assert Workspace(tmp_path / "ws").versions() == [1]


def test_a_folder_with_a_workspace_is_refused_before_the_logs_are_read(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet")
    preprocess(_config(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WorkspaceError, match="holds version 1 already: choose another --workspace"):
        preprocess(_config(tmp_path, logs=str(tmp_path / "missing.csv")))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_workspace_in_use_is_refused(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet")
    with (
        Workspace(tmp_path / "ws").lock("other"),
        pytest.raises(WorkspaceBusyError, match="in use by job other"),
    ):
        preprocess(_config(tmp_path))
    assert Workspace(tmp_path / "ws").versions() == []


@pytest.mark.parametrize("suppressed_by", [None, "none"])
def test_a_refusal_leaves_neither_a_folder_nor_a_key(tmp_path: Path, suppressed_by: str | None) -> None:
    changes = {} if suppressed_by is None else {"suppressed_by": tmp_path / suppressed_by}
    with pytest.raises((InputError, WorkspaceError), match=r"matches no file|holds no workspace"):
        preprocess(_config(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_leaves_a_folder_and_a_key_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws.key").write_text("ab" * 32)
    with pytest.raises(InputError, match="matches no file"):
        preprocess(_config(tmp_path))
    assert (tmp_path / "ws").is_dir()
    (tmp_path / "ws" / "lock").unlink()
    (tmp_path / "ws").rmdir()
    with pytest.raises(InputError, match="matches no file"):
        preprocess(_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["ws.key"]


def test_integers_that_pandas_wrote_as_floats_are_integers_and_empty_cells_are_set_apart(tmp_path: Path) -> None:
    frame = pd.read_parquet(_logs(tmp_path / "logs.parquet"))
    preprocess(_config(tmp_path))
    expected = open_version(Workspace(tmp_path / "ws"))
    floats = pd.concat([frame.astype({"user": float}), pd.DataFrame({"user": [np.nan], "item": [1], "rating": [1.0]})])
    floats.to_parquet(tmp_path / "floats.parquet")
    assert pq.read_schema(tmp_path / "floats.parquet").field("user").type == pa.float64()
    preprocess(_config(tmp_path, logs=str(tmp_path / "floats.parquet"), workspace=tmp_path / "other"))
    found = open_version(Workspace(tmp_path / "other"))
    assert found.ids(0).equals(expected.ids(0))
    assert found.train().rows.tolist() == expected.train().rows.tolist()
    assert found.manifest.extra["quarantined"] == {"null_user": 1}


def test_such_integers_in_csv_stay_texts_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_parquet(_logs(tmp_path / "logs.parquet"))
    for dtype, noted in ((int, False), (float, True)):
        frame.astype({"user": dtype}).to_csv(tmp_path / "logs.csv", index=False)
        preprocess(_config(tmp_path, logs=str(tmp_path / "logs.csv"), workspace=tmp_path / dtype.__name__))
        told = capsys.readouterr().out
        assert ("note: the ids of table user are texts such as 12.0" in told) == noted
        assert "table item" not in told
    assert pa.types.is_integer(open_version(Workspace(tmp_path / "int")).ids(0).type)
    assert "0.0" in open_version(Workspace(tmp_path / "float")).ids(0).to_pylist()


_KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
module, name, logs, workspace = sys.argv[1:]
killed = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
setattr(import_module(module), name, killed)
preprocess(PreprocessConfig(logs=logs, workspace=Path(workspace), positive_threshold=5.0, partitions=8))
"""
"""A job that dies where it would call a function."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ifru_dist.ingest.gathering", "settle_bucket"),
        ("ifru_dist.ingest.spooled", "write_degrees"),
        ("ifru_dist.pipelines.preprocess", "commit_first"),
    ],
)
def test_a_killed_job_leaves_nothing_that_opens_and_the_next_run_starts_anew(
    tmp_path: Path, module: str, name: str
) -> None:
    _logs(tmp_path / "logs.parquet")
    preprocess(_config(tmp_path, workspace=tmp_path / "undisturbed"))
    command = [sys.executable, "-c", _KILLED, module, name, str(tmp_path / "logs.parquet"), str(tmp_path / "ws")]
    killed = subprocess.run(command, cwd=_ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(WorkspaceError, match="holds no workspace"):
        open_version(Workspace(tmp_path / "ws"))
    assert (tmp_path / "ws" / SPILL_FOLDER).exists() == (name != "commit_first")
    preprocess(_config(tmp_path))
    assert not (tmp_path / "ws" / SPILL_FOLDER).exists()
    expected, found = (Workspace(tmp_path / folder).manifest() for folder in ("undisturbed", "ws"))
    assert found.files() == expected.files()


def test_a_tiny_memory_limit_and_another_scratch_folder_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.concat([pd.read_parquet(_logs(tmp_path / "logs.parquet")) for _ in range(10)])
    frame["item"] = np.arange(len(frame)) * 7 % 150
    frame.to_parquet(tmp_path / "logs.parquet", row_group_size=300)
    monkeypatch.setattr(memory, "_CHUNK_ROWS", range(64, 1 << 20))
    monkeypatch.setattr(memory, "_BUCKET_ROWS", range(64, 1 << 20))
    limits = {"tiny": "1B", "large": "16GiB", "own": None}
    for name, limit in limits.items():
        preprocess(_config(tmp_path, workspace=tmp_path / name, memory_limit=limit, k_core=2))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "mine").write_text("stays")
    preprocess(
        _config(tmp_path, workspace=tmp_path / "elsewhere", memory_limit="1B", scratch=tmp_path / "scratch", k_core=2)
    )
    assert capsys.readouterr().out.count("note: the memory limit leaves little beside the") == 2
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["mine"]
    manifests = [Workspace(tmp_path / name).manifest() for name in (*limits, "elsewhere")]
    assert all(manifest.files() == manifests[0].files() for manifest in manifests)
    assert all(manifest.extra == manifests[0].extra for manifest in manifests)


def test_a_memory_limit_that_is_no_size_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--memory-limit much is no size"):
        preprocess(_config(tmp_path, memory_limit="much"))
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.* cannot take the rows that are sorted on disk .* by --scratch"):
        preprocess(_config(tmp_path, scratch=tmp_path / "file"))
    assert not (tmp_path / "ws").exists()


def test_contradicting_options_leave_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--positive-threshold is missing"):
        preprocess(_config(tmp_path, positive_threshold=None))
    assert list(tmp_path.iterdir()) == []


def test_the_job_from_the_command_line(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        rows = pd.DataFrame({"u": ["0012", "b"], "i": [1, 2], "label": [1, 0]})
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    given = [
        f"--{option}={tmp_path}/{name}.csv"
        for option, name in (("logs", "train"), ("valid", "valid"), ("test", "test"))
    ]
    names = ["--user-column=u", "--item-column=i", "--label-column=label"]
    finished = _job(*given, *names, f"--workspace={tmp_path}/ws")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "training rows" in finished.stdout
    version = open_version(Workspace(tmp_path / "ws"))
    assert version.ids(0).to_pylist() == ["0012", "b"]
    assert version.train().rows.tolist() == [[0, 2], [1, 3]]


def test_further_fields_from_the_command_line(tmp_path: Path) -> None:
    logs = pd.read_parquet(_logs(tmp_path / "logs.parquet"))
    logs["hour"] = (logs["user"] * 7 + logs["item"]) % 5
    logs["device"] = np.where(logs["item"] % 3 == 0, "tv", "phone")
    logs.loc[:1, "device"] = None
    logs.to_parquet(tmp_path / "logs.parquet", row_group_size=64)
    given = [f"--logs={tmp_path}/logs.parquet", f"--workspace={tmp_path}/ws", "--positive-threshold=5"]
    finished = _job(*given, "--fields", "hour", "device", "--partitions=4")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert re.search(r"values of hour +\| +5 \|", finished.stdout)
    report = json.loads((tmp_path / "ws" / "reports" / "preprocess-000001" / "report.json").read_text())
    assert (report["fields"], report["config"]["fields"]) == ({"hour": 5, "device": 2}, ["hour", "device"])
    assert report["quarantined"] == {"null_device": 2}
    version = open_version(Workspace(tmp_path / "ws"), check_content=True)
    assert version.layout.tables == ("user", "item", "hour", "device")
    assert version.layout.sizes == (report["users"], report["items"], 5, 2)
    ids = [external for table in range(4) for external in version.ids(table).to_pylist()]
    for part in (version.train(), version.held_out("valid"), version.held_out("test")):
        assert len(part) > 0
        for rows in part.rows.tolist():
            user, item, hour, device = (ids[row] for row in rows)
            assert (hour, device) == ((user * 7 + item) % 5, "tv" if item % 3 == 0 else "phone")
    assert version.partition_edges().sum() == 4 * report["train"]


def test_a_failure_is_one_line_and_a_status(tmp_path: Path) -> None:
    finished = _job(f"--logs={tmp_path}/none.csv", f"--workspace={tmp_path}/ws", "--positive-threshold=5")
    assert finished.returncode == InputError.exit_code
    assert finished.stderr.startswith(f"error: --logs {tmp_path}/none.csv matches no file")
    assert finished.stderr.count("\n") == 1


@pytest.mark.slow
def test_ray_gives_what_threads_give(tmp_path: Path) -> None:
    _logs(tmp_path / "logs.parquet")
    for scheduler in ("threads", "ray"):
        preprocess(_config(tmp_path, workspace=tmp_path / scheduler, scheduler=scheduler))
    first, second = (Workspace(tmp_path / name).manifest() for name in ("threads", "ray"))
    assert first.files() == second.files()


@pytest.mark.slow
def test_an_error_in_a_task_on_ray_is_as_short_as_elsewhere(tmp_path: Path) -> None:
    ids = pa.array([2**63], pa.uint64())
    pq.write_table(pa.table({"user": ids, "item": ids, "rating": [1.0]}), tmp_path / "logs.parquet")
    with pytest.raises(InputError, match=r"^\S*logs\.parquet has an id beyond .*: write ids as strings$") as caught:
        preprocess(_config(tmp_path, scheduler="ray"))
    assert "\n" not in str(caught.value)
