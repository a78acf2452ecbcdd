"""Unlearning end to end on a small workspace: what a batch changes, what it refuses, and that workers do not matter."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.processes import kill_processes, tagged_environment
from ifru_dist.errors import ConfigError, GangError, GuardError, IfruError, InputError, SolveError, WorkspaceError
from ifru_dist.influence.update import Outcome
from ifru_dist.models.initial import unseen_rows
from ifru_dist.pipelines import unlearn as pipeline
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.workspace.dataset import write_dataset
from ifru_dist.workspace.keys import create_key, fingerprint
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.tables import read_delta
from ifru_dist.workspace.version import Version, open_version
from tests.influence import reference
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    no_session,
    one_torch_thread,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    tree,
    whole_item,
    whole_user,
    without_ray,
)
from tests.workspace.datasets import random_dataset, random_embeddings, trained_workspace
from tests.workspaces import item_id, user_id

_ROOT = Path(__file__).resolve().parents[2]
MODELS = pytest.mark.parametrize("model", ["mf", "lightgcn"])
ROWS = small_interactions().rows
BATCH = [whole_user(LONER), whole_user(BUSY), whole_item(int(ROWS[7, 1]) - SIZES[0]), pair(ROWS[0]), pair(ROWS[50])]
ERASED = np.flatnonzero(
    np.isin(ROWS[:, 0], [LONER, BUSY])
    | np.isin(ROWS[:, 1], [ROWS[7, 1]])
    | np.isin(ROWS @ [1000, 1], ROWS[[0, 50]] @ [1000, 1])
)
"""The examples that BATCH names."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def on_local_ray(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    monkeypatch.setattr(pipeline, "ray_session", no_session)


def config(root: Path, requests: Path, **changes: Any) -> UnlearnConfig:
    return UnlearnConfig(**{"workspace": root, "requests": requests, "workers": 1} | changes)


def run(root: Path, *rows: dict[str, Any], **changes: Any) -> Version:
    """Unlearn a batch; returns the version after it."""
    assert unlearn(config(root, request_file(root.with_suffix(".parquet"), *rows), **changes)) == 0
    return open_version(Workspace(root), check_content=True)


def report_of(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / "reports" / name / "report.json").read_text())


def copy(root: Path, target: Path) -> Path:
    """A workspace and its key."""
    shutil.copytree(root, target)
    shutil.copy(root.with_name(root.name + ".key"), target.with_name(target.name + ".key"))
    return target


def timeless(manifest: Manifest) -> Manifest:
    """What a manifest says apart from when it was made."""
    return dataclasses.replace(manifest, created="")


# --------------------------------------------------------------------------------------------------- one batch, whole


@MODELS
@pytest.mark.usefixtures("in_process")
def test_a_batch_equals_the_dense_computation(tmp_path: Path, model: str) -> None:
    before = small_workspace(tmp_path / "ws", name=model)
    after = run(tmp_path / "ws", *BATCH, tolerance=1e-10)
    data = small_interactions()
    erased = torch.zeros(len(data), dtype=torch.bool)
    erased[torch.from_numpy(ERASED)] = True
    case = reference.Case(
        sizes=SIZES,
        pairs=torch.from_numpy(data.rows),
        label=torch.from_numpy(data.labels).double(),
        erased=erased,
        embeddings=torch.from_numpy(before.embeddings()).double(),
        layer_weights=(1.0,) if model == "mf" else (0.5, 0.5),
        l2=0.02,
        partitions=7,
    )
    moved, emptied = reference.endpoint_masks(case)
    expected = reference.newton(case, moved, damping=0.4, steps=2)
    solved = after.embeddings()[~emptied.numpy()]
    np.testing.assert_allclose(solved, expected[~emptied].numpy(), rtol=1e-5, atol=1e-5)

    report = report_of(tmp_path / "ws", "unlearn-000003")
    residuals = [reference.residual(case, point)[~emptied].norm() for point in (case.embeddings, expected)]
    assert report["influence_residual"] == pytest.approx(float(residuals[1] / residuals[0]), rel=1e-4)
    assert report["subgraph"]["rows"] == int(moved.sum())
    assert report["subgraph"]["rows_reset"] == int(emptied.sum()) >= 3


@MODELS
@pytest.mark.usefixtures("in_process")
def test_only_the_touched_rows_and_the_named_examples_change(tmp_path: Path, model: str) -> None:
    before = small_workspace(tmp_path / "ws", name=model)
    kept_bytes = tree(tmp_path / "ws")
    after = run(tmp_path / "ws", *BATCH)
    assert (before.manifest.version, after.manifest.version) == (2, 3)
    assert kept_bytes.items() <= tree(tmp_path / "ws").items()  # nothing that was there was touched

    assert after.model.base == before.model.base
    assert after.manifest.graph == before.manifest.graph
    assert after.manifest.parent == before.workspace.digest(2)
    assert after.erased_ids().tolist() == ERASED.tolist()
    data, left = small_interactions(), after.train()
    assert left.rows.tolist() == np.delete(data.rows, ERASED, axis=0).tolist()
    assert left.labels.tolist() == np.delete(data.labels, ERASED).tolist()
    assert after.manifest.n_erased == len(ERASED)

    (delta,) = after.model.deltas
    rows, values = read_delta(after.workspace.root, after.layout, delta)
    touched = np.unique(data.rows[ERASED])
    assert rows.tolist() == touched.tolist()
    changed = (after.embeddings() != before.embeddings()).any(axis=1)
    assert np.flatnonzero(changed).tolist() == touched.tolist()
    assert np.array_equal(after.embeddings()[rows], values)

    users, item = [LONER, BUSY], int(ROWS[7, 1])
    reset = unseen_rows("user", [str(user_id(row)) for row in users], 4, 1e-3, seed=1)
    assert np.array_equal(after.embeddings()[users], reset)
    assert np.array_equal(after.embeddings()[[item]], unseen_rows("item", [item_id(item - SIZES[0])], 4, 1e-3, seed=1))
    assert after.original().manifest.version == 2


@pytest.mark.usefixtures("in_process")
def test_the_report_has_every_key_of_the_design(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_workspace(tmp_path / "ws")
    unknown = {"user": "nobody", "item": None, "scope": "user", "request_id": "r9"}
    after = run(tmp_path / "ws", *BATCH, BATCH[0], unknown, damping=0.7)
    report = report_of(tmp_path / "ws", "unlearn-000003")
    assert (report["version_before"], report["version_after"], report["workers"]) == (2, 3, 1)
    assert report["requests"] == {"received": 7, "applied": 5, "duplicate": 1, "not_found": 1, "rejected": 0}
    assert [(entry["row"], entry["status"]) for entry in report["not_applied"]] == [(6, "duplicate"), (7, "not_found")]
    assert report["not_applied"][1]["request_id"] == "r9"
    assert report["interactions_erased"] == len(ERASED)
    assert report["users_touched"] == len(np.unique(ROWS[ERASED, 0]))
    assert report["items_touched"] == len(np.unique(ROWS[ERASED, 1]))
    assert report["rows_updated"] == len(np.unique(ROWS[ERASED]))
    assert set(report["subgraph"]) >= {"rows", "edges", "hops", "rounds"}
    assert report["subgraph"]["rows"] + report["subgraph"]["rows_reset"] == report["rows_updated"]
    assert set(report["solver"]) >= {
        *("newton_steps", "iterations", "relative_residual", "damping", "damping_source", "status")
    }
    assert (report["solver"]["damping"], report["solver"]["damping_source"]) == (0.7, "given")
    assert report["solver"]["status"] == "converged"
    assert report["influence_residual"] >= 0
    phases = {"total", "route", "subgraph", "gradient", "solve", "verify", "commit"}
    assert phases <= set(report["seconds"])
    assert all(report["seconds"][phase] > 0 for phase in phases)
    assert report["bytes_exchanged"] == 0  # one worker has nobody to send to
    assert report["config"]["workspace"] == str(tmp_path / "ws")
    printed = capsys.readouterr().out
    assert f"{len(ERASED)} interactions of {report['users_touched']} users erased" in printed
    assert str(tmp_path / "ws" / "reports" / "unlearn-000003") in printed
    assert after.manifest.extra["interactions_erased"] == len(ERASED)


@pytest.mark.usefixtures("in_process")
def test_the_report_goes_where_it_is_wanted(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    run(tmp_path / "ws", BATCH[0], output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["version_after"] == 3
    assert not (tmp_path / "ws" / "reports").exists()


@pytest.mark.usefixtures("in_process")
def test_users_who_lose_everything_may_be_the_whole_batch(tmp_path: Path) -> None:
    before = small_workspace(tmp_path / "ws")
    only_loner = ROWS[ROWS[:, 0] == LONER]
    after = run(tmp_path / "ws", whole_user(LONER))
    changed = (after.embeddings() != before.embeddings()).any(axis=1)
    assert np.flatnonzero(changed).tolist() == np.unique(only_loner).tolist()
    assert len(after.train()) == len(ROWS) - 1


@pytest.mark.usefixtures("in_process")
def test_everything_may_go(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    after = run(tmp_path / "ws", *(whole_user(row) for row in np.unique(ROWS[:, 0])))
    assert len(after.train()) == 0
    assert np.abs(after.embeddings()[np.unique(ROWS)]).max() < 0.01  # every row is an unseen one
    assert report_of(tmp_path / "ws", "unlearn-000003")["influence_residual"] == 0


@pytest.mark.usefixtures("in_process")
def test_too_few_iterations_are_committed_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_workspace(tmp_path / "ws")
    after = run(tmp_path / "ws", *BATCH, max_iterations=1, tolerance=1e-9)
    solver = report_of(tmp_path / "ws", "unlearn-000003")["solver"]
    assert (solver["status"], solver["iterations"]) == ("max_iterations", [1, 1])
    assert "raise --max-iterations or --damping" in solver["remedy"]
    assert solver["remedy"] in capsys.readouterr().out
    assert after.manifest.version == 3


@pytest.mark.usefixtures("in_process")
def test_a_row_budget_moves_the_most_important_neighbours_too(tmp_path: Path) -> None:
    before = small_workspace(tmp_path / "ws")
    request = pair(ROWS[50])
    endpoints = np.unique(ROWS[50])
    after = run(tmp_path / "ws", request, row_budget=9)
    changed = np.flatnonzero((after.embeddings() != before.embeddings()).any(axis=1))
    assert len(changed) == 9
    assert set(endpoints) <= set(changed)
    neighbours = ROWS[np.isin(ROWS, endpoints).any(axis=1)]
    assert set(changed) <= set(np.unique(neighbours))
    assert report_of(tmp_path / "ws", "unlearn-000003")["subgraph"]["hops"] == 1


# ------------------------------------------------------------------------------------------------ workers do not matter


def copies(tmp_path: Path, model: str) -> Iterator[tuple[int, Path]]:
    """The same workspace for 1, 2 and 3 workers."""
    small_workspace(tmp_path / "ws", name=model)
    for workers in (1, 2, 3):
        yield workers, copy(tmp_path / "ws", tmp_path / f"ws{workers}")


@MODELS
@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_1_2_and_3_workers_make_the_same_version_bit_for_bit(tmp_path: Path, model: str) -> None:
    manifests, trees, reports = [], [], []
    for workers, root in copies(tmp_path, model):
        after = run(root, *BATCH, workers=workers, row_budget=55)
        manifests.append(timeless(after.manifest))
        reports.append(report_of(root, "unlearn-000003"))
        files = tree(root)
        trees.append({name: files[name] for name in files if not name.startswith(("reports", "versions/000003"))})
        assert len(trees[-1]) == len(files) - 5  # the version, and the reports with their folders
    assert [report["workers"] for report in reports] == [1, 2, 3]
    assert [report["bytes_exchanged"] > 0 for report in reports] == [False, True, True]
    assert reports[0]["rows_updated"] > len(np.unique(ROWS[ERASED]))  # neighbours moved, too
    for other in (1, 2):
        assert manifests[other] == manifests[0]
        assert trees[other] == trees[0]
        for figure in ("influence_residual", "solver", "subgraph", "requests", "not_applied", "rows_updated"):
            assert reports[other][figure] == reports[0][figure]


@pytest.mark.usefixtures("in_process")
def test_a_batch_that_is_tried_again_gives_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_workspace(tmp_path / "ws")
    first, second = (copy(tmp_path / "ws", tmp_path / name) for name in ("first", "second"))
    once = run(first, *BATCH)
    with_worker = pipeline.with_gang

    def twice(*arguments: Any, **options: Any) -> Any:
        with_worker(*arguments, **options)
        return with_worker(*arguments, **options)

    monkeypatch.setattr(pipeline, "with_gang", twice)
    assert timeless(run(second, *BATCH).manifest) == timeless(once.manifest)


# ------------------------------------------------------------------------------------------------- batch after batch


@MODELS
@pytest.mark.usefixtures("in_process")
def test_the_same_requests_again_change_nothing(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    run(root, *BATCH)
    files = tree(root)
    capsys.readouterr()
    monkeypatch.setattr(pipeline, "with_gang", None)  # nothing is started for what is known to be done
    again = run(root, *BATCH)
    assert again.manifest.version == 3
    report = report_of(root, "unlearn-000003-nothing-to-do")
    assert report["requests"] == {"received": 5, "applied": 0, "duplicate": 5, "not_found": 0, "rejected": 0}
    assert (report["version_before"], report["version_after"]) == (3, 3)
    assert (report["interactions_erased"], report["rows_updated"], report["solver"]) == (0, 0, None)
    assert "nothing to do: version 3 stays current" in capsys.readouterr().out
    assert files.items() <= tree(root).items()  # the first report included
    new = set(tree(root)) - set(files)
    assert new == {
        "reports/unlearn-000003-nothing-to-do",
        "reports/unlearn-000003-nothing-to-do/report.json",
        "reports/unlearn-000003-nothing-to-do/summary.md",
    }


@pytest.mark.usefixtures("in_process")
def test_what_was_erased_under_other_ids_changes_nothing_either(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, whole_user(BUSY) | {"request_id": "a"})
    mine = [pair(rows) | {"request_id": f"b{rows}"} for rows in np.unique(ROWS[ROWS[:, 0] == BUSY], axis=0)]
    assert run(root, *mine).manifest.version == 3
    counts = report_of(root, "unlearn-000003-nothing-to-do")["requests"]
    assert counts["duplicate"] == counts["received"] == len(mine)


@MODELS
@pytest.mark.usefixtures("in_process")
def test_a_second_batch_stands_on_the_first(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    first = run(root, *BATCH[:2])
    second = run(root, *BATCH)
    assert second.manifest.version == 4
    assert second.manifest.parent == first.workspace.digest(3)
    assert second.model.deltas[:1] == first.model.deltas
    assert second.manifest.tombstones[:1] == first.manifest.tombstones
    assert second.erased_ids().tolist() == ERASED.tolist()
    report = report_of(root, "unlearn-000004")
    assert report["requests"] == {"received": 5, "applied": 3, "duplicate": 2, "not_found": 0, "rejected": 0}
    changed = np.flatnonzero((second.embeddings() != first.embeddings()).any(axis=1))
    new = np.setdiff1d(ERASED, first.erased_ids())
    assert set(changed) == set(np.unique(ROWS[new]))
    assert open_version(first.workspace, 3).train().rows.tolist() == first.train().rows.tolist()


PICKS = st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=6, unique=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "ws"
    small_workspace(root)
    return root


@settings(max_examples=10, deadline=None)
@given(first=PICKS, second=PICKS, users=st.lists(st.sampled_from([2, LONER, BUSY]), max_size=2, unique=True))
def test_two_batches_leave_the_data_that_one_leaves(
    prepared: Path, first: list[int], second: list[int], users: list[int]
) -> None:
    one = [*(pair(ROWS[example]) for example in first), *(whole_user(row) for row in users)]
    two = [pair(ROWS[example]) for example in second]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        without_ray(patch)
        separate, together = (copy(prepared, Path(folder) / name) for name in ("separate", "together"))
        run(separate, *one)
        after, at_once = run(separate, *two), run(together, *one, *two)
        assert after.erased_ids().tolist() == at_once.erased_ids().tolist()
        assert after.train().rows.tolist() == at_once.train().rows.tolist()
        assert at_once.manifest.version == 3
        assert np.isfinite(after.embeddings()).all()


# -------------------------------------------------------------------------------------------------------- looking only


@pytest.mark.usefixtures("in_process")
def test_a_dry_run_changes_nothing_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws" / "lock").unlink()
    path = request_file(tmp_path / "requests.parquet", *BATCH, whole_user(10_000))
    before = tree(tmp_path)
    assert unlearn(config(tmp_path / "ws", path, dry_run=True)) == 0
    assert tree(tmp_path) == before
    printed = capsys.readouterr().out
    users = len(np.unique(ROWS[ERASED, 0]))
    assert f"dry run: {len(ERASED)} interactions of {users} users would be erased" in printed
    assert "6 received, 5 applied, 0 duplicate, 1 not found, 0 rejected" in printed
    assert f"row 1: user '{user_id(LONER)}': applied, 1 interactions" in printed
    assert "row 6: " in printed
    assert "nothing was changed: version 2 stays current" in printed


@pytest.mark.usefixtures("in_process")
def test_a_dry_run_does_not_wait_for_another_job(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    path = request_file(tmp_path / "requests.parquet", *BATCH)
    with version.workspace.lock("train"):
        assert unlearn(config(tmp_path / "ws", path, dry_run=True)) == 0


@pytest.mark.usefixtures("in_process")
def test_guards_refuse_more_and_allow_as_much(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    users = len(np.unique(ROWS[ERASED, 0]))
    refuse(root, BATCH, GuardError, f"--max-users = {users - 1}, but these requests erase", max_users=users - 1)
    limit = len(ERASED) - 1
    message = f"--max-interactions = {limit}, but these requests erase {limit + 1} interactions of {users} users"
    refuse(root, BATCH, GuardError, message, max_interactions=limit)
    refuse(root, BATCH, GuardError, "check the requests with --dry-run", max_interactions=0, dry_run=True)
    assert run(root, *BATCH, max_users=users, max_interactions=len(ERASED)).manifest.version == 3


# ---------------------------------------------------------------------------------------------------------- refused


def refuse(root: Path, batch: list[dict[str, Any]], error: type[IfruError], *expected: str, **changes: Any) -> None:
    """Unlearning a batch fails with a message of one line, and leaves every byte of the workspace as it was."""
    path = request_file(root.with_suffix(".parquet"), *batch)
    refuse_file(root, path, error, *expected, **changes)


def refuse_file(root: Path, path: Path, error: type[IfruError], *expected: str, **changes: Any) -> None:
    before = tree(root.parent)
    with pytest.raises(error) as caught:
        unlearn(config(root, path, **changes))
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root.parent) == before


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.csv", b"user,movie\n1,2\n", "lacks the column(s) item"),
        ("r.csv", b"", "is empty"),
        ("r.parquet", b"PAR1....PAR1", "is no readable Parquet"),
        ("r.csv", b"user,item\n100,00001\n107,\n", "row 2: the item cell is empty, but scope interaction needs it"),
        ("r.jsonl", b'{"user": 1, "item"', "is no readable JSON lines"),
    ],
    ids=["columns", "empty", "corrupt", "cell", "json"],
)
@pytest.mark.usefixtures("in_process")
def test_request_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / name).write_bytes(content)
    refuse_file(tmp_path / "ws", tmp_path / name, InputError, str(tmp_path / name), expected)


@pytest.mark.usefixtures("in_process")
def test_a_file_of_which_nothing_is_found_is_refused_and_a_partly_found_one_applied(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    unknown = [whole_user(10_000), {"user": "nobody", "item": "00001"}, whole_item(SIZES[1] - 1)]
    expected = ("none of the 3 requests of", "row 2: user 'nobody'", "check the ids and the columns")
    refuse(root, unknown, InputError, *expected)
    refuse(root, unknown[:1], InputError, "none of the 1 requests", "its user or item has no training data")
    after = run(root, *unknown, pair(ROWS[0]))
    assert after.manifest.version == 3
    assert report_of(root, "unlearn-000003")["requests"]["not_found"] == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"workers": 8}, "--workers = 8: the workspace has 7 partitions, and each worker needs one at least"),
        ({"workers": 0}, "--workers = 0: "),
        ({"gpus_per_worker": 2}, "--gpus-per-worker = 2: "),
        ({"damping": -0.5}, "--damping = -0.5: "),
        ({"newton_steps": 0}, "--newton-steps = 0: "),
        ({"row_budget": -1}, "--row-budget = -1: "),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_options_that_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", BATCH, ConfigError, expected, **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_more_gpus_or_workers_than_the_cluster_has(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    refuse(tmp_path / "ws", BATCH, ConfigError, "--gpus-per-worker = 1: ", "0 GPUs", gpus_per_worker=1, workers=2)
    # The Ray of these tests has four CPUs.
    refuse(tmp_path / "ws", BATCH, ConfigError, "--workers = 5: ", "4 CPUs", workers=5)


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_workspace(tmp_path / "ws")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    for dead in (address, f"ray://{address}"):
        monkeypatch.setenv("RAY_ADDRESS", dead)
        expected = (f"no Ray cluster at {dead} (", "check RAY_ADDRESS and RAY_AUTH_MODE")
        refuse(tmp_path / "ws", BATCH, GangError, *expected)


@pytest.mark.usefixtures("in_process")
def test_no_workspace_no_model_no_key(tmp_path: Path) -> None:
    refuse(tmp_path / "none", BATCH, WorkspaceError, "holds no workspace: make one with jobs/preprocess.py")
    assert not (tmp_path / "none").exists()
    workspace = Workspace(tmp_path / "data")
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        write_dataset(workspace, random_dataset(1), 5)
    refuse(workspace.root, BATCH, WorkspaceError, "holds no model yet: make one with jobs/train.py")
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws.key").rename(tmp_path / "elsewhere")
    refuse(tmp_path / "ws", BATCH, WorkspaceError, f"key file {tmp_path}/ws.key is missing", "--key-file")
    assert run(tmp_path / "ws", *BATCH, key_file=tmp_path / "elsewhere").manifest.version == 3


@pytest.mark.usefixtures("in_process")
def test_the_key_of_another_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    key = create_key(workspace.default_key_file)
    create_key(tmp_path / "other.key")
    data = dataclasses.replace(random_dataset(1), key_fingerprint=fingerprint(key))
    trained_workspace(workspace, data, random_embeddings(1, sum(map(len, data.ids))))
    batch = [{"user": str(data.ids[0][int(data.train.rows[0, 0])]), "scope": "user", "item": None}]
    expected = (f"key file {tmp_path}/other.key holds another key", "earlier erasures would not be known again")
    refuse(workspace.root, batch, WorkspaceError, *expected, key_file=tmp_path / "other.key")
    assert run(workspace.root, *batch).manifest.version == 3


@pytest.mark.usefixtures("in_process")
def test_a_report_that_could_not_be_written_is_noticed_first(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "file").touch()
    expected = (f"--output = {tmp_path}/file/out: ", "give a folder that can be written")
    refuse(tmp_path / "ws", BATCH, ConfigError, *expected, output=tmp_path / "file" / "out")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("harm", [flip_a_bit, cut_short, Path.unlink], ids=["altered", "cut", "missing"])
@pytest.mark.parametrize("kind", ["table", "delta", "graph", "tombstones", "requests", "manifest"])
@pytest.mark.usefixtures("in_process")
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, harm: Callable[[Path], None]) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    version = run(root, pair(ROWS[0]))
    manifest = version.manifest
    listed = {
        "table": version.model.base[1],
        "delta": version.model.deltas[0],
        "graph": manifest.graph[0],
        "tombstones": manifest.tombstones[0],
        "requests": manifest.requests[0],
    }
    harmed = root / listed[kind].path if kind in listed else version.workspace.manifest_path(3)
    if kind == "manifest" and harm is Path.unlink:
        pytest.skip("without its manifest the version before is current")
    harm(harmed)
    refuse(root, BATCH, WorkspaceError, str(harmed), "restore")


@pytest.mark.usefixtures("in_process")
def test_a_workspace_that_another_process_uses(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    hold = (
        "import sys; from pathlib import Path; from ifru_dist.workspace.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock('train'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(root)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = ("is in use by job train on ", f"process {holder.pid}", "wait until it ends, or stop it")
        refuse(root, BATCH, WorkspaceError, *expected)
    assert run(root, *BATCH).manifest.version == 3


@MODELS
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.usefixtures("in_process")
def test_a_model_that_is_not_finite_makes_no_version(tmp_path: Path, model: str, value: float) -> None:
    embeddings = np.random.default_rng(8).normal(size=(sum(SIZES), 4))
    embeddings[ROWS[0, 1], 2] = value
    small_workspace(tmp_path / "ws", name=model, embeddings=embeddings)
    refuse(tmp_path / "ws", [pair(ROWS[0])], SolveError, "not_finite", "nothing was committed")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "not_positive_definite"}, "raise --damping; nothing was committed"),
        ({"values": torch.tensor([[0.0, 1.0, np.nan, 0.0]])}, "the update is not finite"),
        ({"values": torch.tensor([[0.0, 1.0, 1e300, 0.0]], dtype=torch.float64)}, "the update is not finite"),
    ],
    ids=["status", "nan", "overflow"],
)
@pytest.mark.usefixtures("in_process")
def test_an_update_that_cannot_be_used_makes_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: str
) -> None:
    small_workspace(tmp_path / "ws")
    with_worker = pipeline.with_gang

    def spoiled(*arguments: Any, **options: Any) -> tuple[Any, list[Outcome]]:
        routed, (outcome,) = with_worker(*arguments, **options)
        spoilt = {"rows": outcome.rows[:1], "values": outcome.values[:1]} | changes
        return routed, [dataclasses.replace(outcome, **spoilt)]

    monkeypatch.setattr(pipeline, "with_gang", spoiled)
    refuse(tmp_path / "ws", [pair(ROWS[50])], SolveError, expected)


# ------------------------------------------------------------------------------------------------------------- killed

_JOB = """
import os, signal, sys
from ifru_dist.pipelines import unlearn
from ifru_dist.pipelines.command import run_command
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{patch}
run_command(unlearn.UnlearnConfig, unlearn.unlearn)
"""
_WHEN = {
    "before the manifest appears": "os.link = die; from tests.pipelines.small import without_ray; import pytest; "
    "without_ray(pytest.MonkeyPatch())",
    "while the gang solves": "say = unlearn.say; unlearn.say = lambda text: die() if 'erasing' in text else say(text)",
}


@contextlib.contextmanager
def tag() -> Iterator[dict[str, str]]:
    """An environment for processes that are all killed afterwards."""
    name = uuid.uuid4().hex
    try:
        yield os.environ | tagged_environment(name)
    finally:
        kill_processes(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("when", _WHEN)
def test_a_killed_job_leaves_the_old_version_and_may_run_again(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    undisturbed = copy(root, tmp_path / "undisturbed")
    path = request_file(tmp_path / "requests.parquet", *BATCH)
    before, manifest = tree(root), Workspace(root).manifest()
    options = [f"--workspace={root}", f"--requests={path}", "--workers=1"]
    with tag() as environment:
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", _JOB.format(patch=_WHEN[when]), *options]
        killed = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    after_kill = tree(root)
    remnants = {name.split("-")[0] for name in set(after_kill) - set(before)}
    assert ("tables/delta" in remnants) == (when == "before the manifest appears")
    assert {name: after_kill[name] for name in before if name != "lock"} == {
        name: content for name, content in before.items() if name != "lock"
    }
    version = open_version(Workspace(root), check_content=True)
    assert version.manifest == manifest
    assert version.train().rows.tolist() == ROWS.tolist()

    without_ray(monkeypatch)
    again, expected = run(root, *BATCH), run(undisturbed, *BATCH)
    assert again.manifest.version == 3
    assert timeless(again.manifest) == timeless(expected.manifest)


@pytest.mark.slow
def test_the_job_from_the_command_line_starts_a_ray_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    path = request_file(tmp_path / "requests.parquet", *BATCH)
    options = [f"--workspace={root}", f"--requests={path}", "--workers=2"]
    with tag() as environment:
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "jobs/unlearn.py", *options]
        finished = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "version 2 -> 3" in finished.stdout
    assert open_version(Workspace(root), check_content=True).erased_ids().tolist() == ERASED.tolist()
