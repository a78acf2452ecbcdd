"""Unlearning end to end on a small workspace: what a batch, and batch after batch, changes; and looking only."""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import GuardError
from ifru_dist.models.initial import reset_rows
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.unlearn import unlearn
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.ledger import read_ledger
from ifru_dist.workspace.tables import read_delta
from ifru_dist.workspace.version import Version, open_version
from tests.influence import reference
from tests.pipelines.batches import BATCH, ERASED, MODELS, ROWS, config, copy, dense_case, refuse, report_of, run
from tests.pipelines.small import (
    BUSY,
    LONER,
    SIZES,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    tree,
    whole_user,
)
from tests.workspaces import user_id

# --------------------------------------------------------------------------------------------------- one batch, whole


@MODELS
def test_a_batch_equals_the_dense_computation(tmp_path: Path, model: str) -> None:
    before = small_workspace(tmp_path / "ws", name=model)
    exact = {"product": "exact", "anchor": "degree", "solver_tolerance": 1e-10}
    after = run(tmp_path / "ws", *BATCH, newton_steps=1, row_budget=0, **exact)
    case = dense_case(before, ERASED)
    moved, emptied = reference.endpoint_masks(case)
    expected = reference.newton(case, moved, damping=0.4, steps=1)
    solved = after.embeddings()[~emptied.numpy()]
    np.testing.assert_allclose(solved, expected[~emptied].numpy(), rtol=1e-5, atol=1e-5)

    report = report_of(tmp_path / "ws", "unlearn-000003")
    residuals = [reference.residual(case, point)[~emptied].norm() for point in (case.embeddings, expected)]
    assert report["influence_residual"] == pytest.approx(float(residuals[1] / residuals[0]), rel=1e-4)
    unfinished = torch.func.grad(reference.objective, argnums=2)(case, torch.ones_like(case.erased), case.embeddings)
    stationarity = unfinished[moved].norm() / residuals[0]
    assert report["solver"]["stationarity"] == pytest.approx(float(stationarity), rel=1e-6)
    assert report["solver"]["newton_steps"] == len(report["solver"]["iterations"]) == 1
    assert report["subgraph"]["rows"] == int(moved.sum())
    assert report["subgraph"]["rows_reset"] == int(emptied.sum()) >= 3


@MODELS
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
    reset = reset_rows("user", users, 4, 1e-3, seed=1)
    assert np.array_equal(after.embeddings()[users], reset)
    assert np.array_equal(after.embeddings()[[item]], reset_rows("item", [item - SIZES[0]], 4, 1e-3, seed=1))
    assert after.original().manifest.version == 2


def test_the_report_has_every_key_of_the_design(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_workspace(tmp_path / "ws")
    unknown = {"user": "nobody", "item": None, "scope": "user", "request_id": "r9"}
    after = run(tmp_path / "ws", *BATCH, BATCH[0], unknown, damping=0.7)
    report = report_of(tmp_path / "ws", "unlearn-000003")
    assert (report["version_before"], report["version_after"], report["workers"]) == (2, 3, 0)
    assert report["requests"] == {"received": 7, "applied": 5, "duplicate": 1, "not_found": 1, "rejected": 0}
    assert [(entry["row"], entry["status"]) for entry in report["not_applied"]] == [(6, "duplicate"), (7, "not_found")]
    assert report["not_applied"][1]["request_id"] == "r9"
    assert report["interactions_erased"] == len(ERASED)
    assert report["users_touched"] == len(np.unique(ROWS[ERASED, 0]))
    assert report["items_touched"] == len(np.unique(ROWS[ERASED, 1]))
    assert report["rows_updated"] == len(np.unique(ROWS[ERASED]))
    subgraph = report["subgraph"]
    assert set(subgraph) == {"rows", "edges", "importance", "hops", "rounds", "rows_reset"}
    assert (subgraph["importance"], subgraph["hops"]) == ("step", None)
    (entry,) = subgraph["rounds"]  # this model is far from stationary, so no other rows may enter
    assert set(entry) == {
        *("rows", "edges", "edges_per_product", "edges_per_residual", "iterations", "residual_outside", "kept"),
    }
    assert (entry["rows"], entry["edges"], entry["kept"]) == (subgraph["rows"], subgraph["edges"], True)
    assert (entry["edges_per_product"], entry["edges_per_residual"]) == (entry["edges"], 2 * entry["edges"])
    assert entry["iterations"] == report["solver"]["iterations"]
    assert report["subgraph"]["rows"] + report["subgraph"]["rows_reset"] == report["rows_updated"]
    assert set(report["solver"]) == {
        *("newton_steps", "iterations", "relative_residual", "damping", "damping_source", "damping_note"),
        *("curvature", "preconditioner", "stationarity", "objective_change", "status", "remedy"),
        *("anchor", "anchor_scale", "temperature", "path", "product", "product_error", "dense"),
    }
    documented = (Path(__file__).parents[2] / "docs" / "reports.md").read_text().split("## unlearn")[1]
    for key in (*report["solver"], *subgraph, *entry):
        assert f"`{key}`" in documented.split("\n## ")[0]
    for option in ("curvature", "preconditioner", "product", "dense"):
        assert report["solver"][option] == report["config"][option]
    assert report["solver"]["stationarity"] > 1
    assert report["solver"]["objective_change"] < 0
    assert (report["solver"]["damping"], report["solver"]["damping_source"]) == (0.7, "given")
    assert [report["solver"][key] for key in ("anchor", "anchor_scale", "temperature")] == ["degree", 1.0, 1.0]
    assert report["solver"]["product_error"] is None  # matrix factorisation without a budget of edges: nothing left out
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


def test_the_report_goes_where_it_is_wanted(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    run(tmp_path / "ws", BATCH[0], output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["version_after"] == 3
    assert not (tmp_path / "ws" / "reports").exists()


def test_users_who_lose_everything_may_be_the_whole_batch(tmp_path: Path) -> None:
    before = small_workspace(tmp_path / "ws")
    only_loner = ROWS[ROWS[:, 0] == LONER]
    after = run(tmp_path / "ws", whole_user(LONER))
    changed = (after.embeddings() != before.embeddings()).any(axis=1)
    assert np.flatnonzero(changed).tolist() == np.unique(only_loner).tolist()
    assert len(after.train()) == len(ROWS) - 1


def test_everything_may_go(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    after = run(tmp_path / "ws", *(whole_user(row) for row in np.unique(ROWS[:, 0])))
    assert len(after.train()) == 0
    assert np.abs(after.embeddings()[np.unique(ROWS)]).max() < 0.01  # every row is an unseen one
    assert report_of(tmp_path / "ws", "unlearn-000003")["influence_residual"] == 0


@functools.cache
def stationary(model: str) -> np.ndarray:
    """Embeddings at a stationary point of training with l2_row = 0.5 and no l2."""
    data = small_interactions()
    options = TrainOptions(optimiser="lbfgs", epochs=500, gradient_tolerance=1e-3)
    spec = ModelSpec(name=model, dim=4, l2_row=0.5, init_std=0.1)
    return fit(spec, SIZES, data, None, options, show_progress=False).parameters.embeddings


def changed_rows(before: Version, after: Version) -> list[int]:
    return np.flatnonzero((after.embeddings() != before.embeddings()).any(axis=1)).tolist()


@pytest.mark.parametrize("importance", ["degree", "step"])
def test_a_row_budget_moves_the_most_important_neighbours_too(tmp_path: Path, importance: str) -> None:
    before = small_workspace(tmp_path / "ws", embeddings=stationary("mf"), l2=0.0, l2_row=0.5)
    endpoints = np.unique(ROWS[50])
    after = run(tmp_path / "ws", pair(ROWS[50]), row_budget=9, importance=importance, tolerance=1e-3)
    changed = changed_rows(before, after)
    assert len(changed) == 9
    assert set(endpoints) <= set(changed)
    neighbours = {"degree": [1], "step": [1, 2, 3]}[importance]  # rounds go on from the rows that entered
    assert set(changed) <= set(within(endpoints, max(neighbours)))
    subgraph = report_of(tmp_path / "ws", "unlearn-000003")["subgraph"]
    assert (subgraph["importance"], subgraph["hops"]) == (importance, 1 if importance == "degree" else None)
    assert [entry["rows"] for entry in subgraph["rounds"]] == {"degree": [9], "step": [2, 4, 8, 9]}[importance]


def within(rows: np.ndarray, hops: int) -> np.ndarray:
    """Rows up to some hops from the given ones."""
    for _ in range(hops):
        rows = np.unique(ROWS[np.isin(ROWS, rows).any(axis=1)])
    return rows


@MODELS
def test_an_automatic_row_budget_lets_neighbours_in_near_a_stationary_point(tmp_path: Path, model: str) -> None:
    near = {"embeddings": stationary(model), "l2": 0.0, "l2_row": 0.5, "name": model}
    before = small_workspace(tmp_path / "near", **near)
    after = run(tmp_path / "near", pair(ROWS[50]), tolerance=0.01)
    report = report_of(tmp_path / "near", "unlearn-000003")
    assert report["solver"]["stationarity"] < 1
    assert 2 < len(changed_rows(before, after)) == report["subgraph"]["rows"] <= 8 * 2
    kept = [entry["rows"] for entry in report["subgraph"]["rounds"] if entry["kept"]]
    assert (kept[0], kept[-1]) == (2, report["subgraph"]["rows"])
    small_workspace(tmp_path / "only", **near)
    run(tmp_path / "only", pair(ROWS[50]), tolerance=0.01, row_budget=0)
    only = report_of(tmp_path / "only", "unlearn-000003")
    assert report["influence_residual"] < only["influence_residual"]


# ------------------------------------------------------------------------------------------------- batch after batch


@MODELS
def test_the_same_requests_again_change_nothing(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    run(root, *BATCH)
    files = tree(root)
    capsys.readouterr()
    monkeypatch.setattr(Workers, "run", None)  # nothing is started for what is known to be done
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


def test_what_was_erased_under_other_ids_changes_the_ledger_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    before = run(root, whole_user(BUSY) | {"request_id": "a"})
    files = tree(root)
    mine = [pair(rows) | {"request_id": f"b{rows}"} for rows in np.unique(ROWS[ROWS[:, 0] == BUSY], axis=0)]
    monkeypatch.setattr(Workers, "run", None)  # nothing is started for what is known to be done
    after = run(root, *mine)
    counts = report_of(root, "unlearn-000004")["requests"]
    assert counts["duplicate"] == counts["received"] == len(mine)
    assert "version 3 -> 4: nothing to erase; the ledger holds" in capsys.readouterr().out
    assert {name.split("/")[0] for name in set(tree(root)) - set(files)} == {"reports", "requests", "versions"}
    same = {"requests": (), "version": 0, "parent": "", "created": "", "extra": {}}
    assert replace(after.manifest, **same) == replace(before.manifest, **same)
    ledger = read_ledger(root, after.manifest.requests, after.manifest.suppression)
    assert list(ledger.requests.values()) == [3] + [None] * len(mine)
    assert run(root, *mine).manifest.version == 4


@MODELS
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
    with tempfile.TemporaryDirectory() as folder:
        separate, together = (copy(prepared, Path(folder) / name) for name in ("separate", "together"))
        run(separate, *one)
        after, at_once = run(separate, *two), run(together, *one, *two)
        assert after.erased_ids().tolist() == at_once.erased_ids().tolist()
        assert after.train().rows.tolist() == at_once.train().rows.tolist()
        assert after.forgotten_rows().tolist() == at_once.forgotten_rows().tolist()
        for part in ("valid", "test"):
            assert after.held_out(part).rows.tolist() == at_once.held_out(part).rows.tolist()
        assert at_once.manifest.version == 3
        assert np.isfinite(after.embeddings()).all()


# -------------------------------------------------------------------------------------------------------- looking only


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
    assert "row 1: user: applied, 1 interactions" in printed
    assert str(user_id(LONER)) not in printed  # logs are kept: they name rows of the file
    assert "row 6: " in printed
    assert "nothing was changed: version 2 stays current" in printed


def test_a_dry_run_does_not_wait_for_another_job(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    path = request_file(tmp_path / "requests.parquet", *BATCH)
    with version.workspace.lock("train"):
        assert unlearn(config(tmp_path / "ws", path, dry_run=True)) == 0


def test_guards_refuse_more_and_allow_as_much(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    users = len(np.unique(ROWS[ERASED, 0]))
    refuse(root, BATCH, GuardError, f"--max-users = {users - 1}, but these requests erase", max_users=users - 1)
    limit = len(ERASED) - 1
    message = f"--max-interactions = {limit}, but these requests erase {limit + 1} interactions of {users} users"
    refuse(root, BATCH, GuardError, message, max_interactions=limit)
    refuse(root, BATCH, GuardError, "check the requests with --dry-run", max_interactions=0)
    assert run(root, *BATCH, max_interactions=0, dry_run=True).manifest.version == 2  # a dry run may look at any batch
    assert run(root, *BATCH, max_users=users, max_interactions=len(ERASED)).manifest.version == 3
