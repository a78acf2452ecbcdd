"""Whole users and items go with their embeddings, ids and held-out pairs; single held-out pairs can be erased, too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from ifru_dist.errors import GuardError, InputError
from ifru_dist.interactions import Interactions
from ifru_dist.models.initial import reset_rows
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.restore import RestoreConfig, restore
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.unlearn import unlearn
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.keys import create_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.tables import read_delta
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import MODELS, ROWS, config, refuse, report_of, run
from tests.pipelines.small import (
    BUSY,
    SIZES,
    pair,
    request_file,
    small_interactions,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.workspace.datasets import random_dataset, random_embeddings, random_interactions, trained_workspace
from tests.workspaces import user_id

ITEM = int(ROWS[7, 1]) - SIZES[0]
NEVER_SEEN = SIZES[1] - 1
"""The item without an interaction."""
PARTS = ("valid", "test")


@pytest.fixture
def held_out() -> Interactions:
    """Random pairs; the first two are training pairs, the third stands twice, and the fourth is the user of most."""
    drawn = random_interactions(np.random.default_rng(11), SIZES, 60)
    rows = drawn.rows.copy()
    rows[:2] = ROWS[[0, 50]]
    seen = {tuple(row) for row in ROWS.tolist()}
    rows = rows[[at < 2 or tuple(row) not in seen for at, row in enumerate(rows.tolist())]]
    rows[3] = BUSY, SIZES[0] + next(i for i in range(SIZES[1]) if (BUSY, SIZES[0] + i) not in seen)
    rows = np.concatenate([rows, rows[[2]]])
    return Interactions(rows, np.arange(len(rows), dtype=np.float32) % 2)


@pytest.fixture
def before(tmp_path: Path, held_out: Interactions) -> Version:
    return small_workspace(tmp_path / "ws", held_out=held_out)


def texts(version: Version, table: int) -> list[str | None]:
    """The ids of a table as text."""
    return version.ids(table).cast(pa.large_string()).to_pylist()


def assert_left(version: Version, held_out: Interactions, gone: np.ndarray) -> None:
    """Both parts hold what a mask over the stored pairs leaves, in the same order."""
    for part in PARTS:
        pairs = version.held_out(part)
        assert pairs.rows.tolist() == held_out.rows[~gone].tolist()
        assert pairs.labels.tolist() == held_out.labels[~gone].tolist()


# ----------------------------------------------------------------------------------------------------------- whole rows


@MODELS
def test_whole_users_and_items_go_with_ids_and_held_out_pairs(
    tmp_path: Path, held_out: Interactions, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root, held_out=held_out, name=model)
    files = tree(root)
    after = run(root, whole_user(BUSY), whole_item(ITEM), pair(ROWS[0]))
    rows = [BUSY, SIZES[0] + ITEM]
    assert after.forgotten_rows().tolist() == rows
    for table, gone in enumerate((BUSY, ITEM)):
        known = texts(before, table)
        assert texts(after, table) == [None if row == gone else known[row] for row in range(SIZES[table])]
    assert after.find_rows(0, pa.array([str(user_id(BUSY))])).tolist() == [-1]
    gone = np.isin(held_out.rows, rows).any(axis=1) | (held_out.rows == ROWS[0]).all(axis=1)
    assert_left(after, held_out, gone)
    reset = [reset_rows("user", [BUSY], 4, 1e-3, 1), reset_rows("item", [ITEM], 4, 1e-3, 1)]
    assert np.array_equal(after.embeddings()[rows], np.concatenate(reset))

    report = report_of(root, "unlearn-000003")
    assert (report["rows_forgotten"], report["held_out_erased"]) == (2, 2 * gone.sum())
    summary = f"2 users and items with their ids, and {2 * gone.sum()} validation and test pairs erased"
    assert summary in capsys.readouterr().out
    assert after.manifest.extra["rows_forgotten"] == 2
    # The version before is as it was, with all it knew.
    assert files.items() <= tree(root).items()
    assert texts(open_version(before.workspace, 2), 0)[BUSY] == str(user_id(BUSY))
    assert_left(open_version(before.workspace, 2), held_out, np.zeros(len(held_out), bool))


def test_erasing_single_interactions_forgets_no_row(before: Version, capsys: pytest.CaptureFixture[str]) -> None:
    after = run(before.workspace.root, *(pair(rows) for rows in ROWS[ROWS[:, 0] == BUSY]))
    assert after.forgotten_rows().tolist() == []
    assert after.manifest.forgotten == after.manifest.held_out_erased == ()  # no held-out pair is one of these
    assert texts(after, 0) == texts(before, 0)
    assert "with their ids" not in capsys.readouterr().out


@pytest.mark.parametrize("scope", ["user", "item"])
def test_a_row_without_training_data_is_a_batch_of_its_own(
    before: Version, held_out: Interactions, scope: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = before.workspace.root
    if scope == "user":
        emptied = run(root, *(pair(rows) for rows in ROWS[ROWS[:, 0] == BUSY]))
        row, request, reset = BUSY, whole_user(BUSY), reset_rows("user", [BUSY], 4, 1e-3, seed=1)
    else:
        emptied = run(root, pair(ROWS[50]))
        row, request = SIZES[0] + NEVER_SEEN, whole_item(NEVER_SEEN)
        reset = reset_rows("item", [NEVER_SEEN], 4, 1e-3, seed=1)
    here = len(emptied.held_out("test"))
    capsys.readouterr()
    after = run(root, request)
    assert (after.manifest.version, after.manifest.parent) == (4, before.workspace.digest(3))
    assert after.forgotten_rows().tolist() == [row]
    assert after.ids(row >= SIZES[0]).null_count == 1
    assert after.manifest.tombstones == emptied.manifest.tombstones
    assert after.manifest.n_erased == emptied.manifest.n_erased
    rows, values = read_delta(root, after.layout, after.model.deltas[-1])
    assert rows.tolist() == [row]
    assert np.array_equal(values, reset)
    expected = emptied.embeddings()
    expected[row] = reset
    assert np.array_equal(after.embeddings(), expected)
    left = emptied.held_out("test").rows
    assert after.held_out("test").rows.tolist() == left[~(left == row).any(axis=1)].tolist()
    assert len(after.held_out("test")) < here

    report = report_of(root, "unlearn-000004")
    assert report["requests"] == {"received": 1, "applied": 1, "duplicate": 0, "not_found": 0, "rejected": 0}
    assert (report["interactions_erased"], report["rows_updated"], report["rows_forgotten"]) == (0, 1, 1)
    assert (report["solver"], report["subgraph"], report["influence_residual"]) == (None, None, None)
    printed = capsys.readouterr().out
    assert "version 3 -> 4: 0 interactions of 0 users erased, 1 rows updated (1 of them reset)" in printed
    assert "1 users and items with their ids" in printed
    assert "nothing to do" not in printed


@MODELS
def test_a_row_without_training_data_is_reset_beside_rows_that_are_solved_for(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    after = run(root, whole_item(NEVER_SEEN), pair(ROWS[50]), importance="degree")
    rows, values = read_delta(root, after.layout, after.model.deltas[-1])
    assert (np.diff(rows) > 0).all()
    assert len(rows) > 3
    row = SIZES[0] + NEVER_SEEN
    assert np.array_equal(values[rows == row], reset_rows("item", [NEVER_SEEN], 4, 1e-3, seed=1))
    report = report_of(root, "unlearn-000003")
    assert (report["rows_updated"], report["subgraph"]["rows"]) == (len(rows), len(rows) - 1)
    assert report["subgraph"]["rows_reset"] == 1


@MODELS
def test_what_was_forgotten_stays_a_duplicate_and_changes_nothing(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    run(root, whole_user(BUSY), whole_item(NEVER_SEEN))
    files, before = tree(root), open_version(Workspace(root))
    monkeypatch.setattr(Workers, "run", None)  # nothing is started for what is known to be done
    again = [
        whole_user(BUSY),
        whole_user(BUSY) | {"request_id": "another ticket"},
        whole_item(NEVER_SEEN),
        pair(ROWS[ROWS[:, 0] == BUSY][0]),
        pair(np.array([2, SIZES[0] + NEVER_SEEN])),
    ]
    after = run(root, *again)  # there is a version for the ledger, which holds other requests for the same
    assert (after.manifest.version, after.model, after.manifest.forgotten) == (
        4,
        before.model,
        before.manifest.forgotten,
    )
    assert run(root, *again).manifest.version == 4
    for name in ("unlearn-000004", "unlearn-000004-nothing-to-do"):
        report = report_of(root, name)
        assert report["requests"]["duplicate"] == len(again)
        assert (report["rows_forgotten"], report["held_out_erased"], report["rows_updated"]) == (0, 0, 0)
    assert files.items() <= tree(root).items()
    refuse(root, [whole_user(10_000)], InputError, "none of the 1 requests", "its user or item has no training data")


def test_batch_after_batch_forgets_more(before: Version, held_out: Interactions) -> None:
    root = before.workspace.root
    run(root, whole_user(BUSY))
    run(root, pair(held_out.rows[2]), whole_item(ITEM))
    after = run(root, whole_user(2))
    rows = sorted([2, BUSY, SIZES[0] + ITEM])
    assert after.forgotten_rows().tolist() == rows
    assert len(after.manifest.forgotten) == 3
    assert len(after.manifest.held_out_erased) == 1
    gone = np.isin(held_out.rows, rows).any(axis=1) | (held_out.rows == held_out.rows[2]).all(axis=1)
    assert_left(after, held_out, gone)
    assert np.isfinite(after.embeddings()).all()


def test_no_new_file_names_what_was_forgotten(tmp_path: Path) -> None:
    data = random_dataset(4, n_train=40)
    named = zip(("zoe", "film"), data.ids, strict=True)
    users, items = ([f"{name}-of-{row:02d}" for row in range(len(ids))] for name, ids in named)
    workspace = Workspace(tmp_path / "ws")
    create_key(workspace.default_key_file)
    ids = tuple(pa.array(texts, pa.large_string()) for texts in (users, items))
    before = trained_workspace(workspace, replace(data, ids=ids), random_embeddings(4, 22))
    files = tree(tmp_path)
    pairs = [rows - (0, len(users)) for rows in (data.train.rows[0], data.valid.rows[1])]
    requests = [{"user": users[5], "scope": "user"}, {"item": items[3], "scope": "item"}]
    after = run(workspace.root, *requests, *({"user": users[u], "item": items[i]} for u, i in pairs))
    new = {name: content for name, content in tree(workspace.root).items() if f"ws/{name}" not in files and content}
    listed = {entry.path for entry in after.manifest.files()} - {entry.path for entry in before.manifest.files()}
    assert {path.split("-")[0] for path in listed} == {
        *("examples/erased", "ids/forgotten", "split/erased", "tables/delta", "requests/batch", "suppression/erased")
    }
    assert listed | {"versions/000003.json", "reports/unlearn-000003/report.json"} <= set(new)
    assert any(b"zoe-of-05" in content for content in files.values() if content)
    assert [name for name, content in new.items() if b"zoe" in content or b"film" in content] == []


def test_the_model_that_is_left_is_the_same_whatever_the_erased_ids_were(tmp_path: Path) -> None:
    # Else who has the workspace could try ids until one gives the rows that are there.
    kept = []
    for name in ("alice", "bob"):
        data, workspace = random_dataset(4, n_train=40), Workspace(tmp_path / name)
        create_key(workspace.default_key_file)
        ids = tuple(
            pa.array(
                [f"{name}-{row}" if row in (3, 5) else f"of {row}" for row in range(len(table))], pa.large_string()
            )
            for table in data.ids
        )
        trained_workspace(workspace, replace(data, ids=ids), random_embeddings(4, 22))
        requests = [{"user": f"{name}-{row}", "scope": "user"} for row in (3, 5)]
        requests += [{"item": f"{name}-{row}", "scope": "item"} for row in (3, 5)]
        run(workspace.root, *requests[1:3])
        embeddings = [run(workspace.root, requests[0], requests[3]).embeddings()]
        assert restore(RestoreConfig(workspace=workspace.root, version=2, workers=0, residual_budget=100)) == 0
        assert vacuum(VacuumConfig(workspace=workspace.root, keep_versions=1)) == 0
        after = open_version(workspace)
        kept.append([*embeddings, after.embeddings()])
    for one, other in zip(*kept, strict=True):
        assert one.tobytes() == other.tobytes()
        assert one[after.forgotten_rows()].any(axis=1).all()


@MODELS
def test_evaluation_measures_the_held_out_pairs_that_are_left(
    tmp_path: Path, held_out: Interactions, model: str
) -> None:
    root = tmp_path / "ws"
    small_workspace(root, held_out=held_out, name=model)
    after = run(root, whole_user(BUSY), whole_item(ITEM), pair(held_out.rows[2]))
    test = after.held_out("test")
    assert 10 < len(test) < len(held_out)
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    report = report_of(root, "evaluate-000003")
    for name, version in (("original", after.original()), ("unlearned", after)):
        scorer = Scorer(version.model.spec, version.train(), version.parameters())
        expected = roc_auc_score(test.labels, scorer.scores(test))
        assert report["methods"][name]["auc"] == pytest.approx(expected, abs=1e-9)
    run(root, *(whole_user(row) for row in np.unique(test.rows[:, 0])))
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    assert report_of(root, "evaluate-000004")["auc"] is None  # no pair is left


# ------------------------------------------------------------------------------------------------ single held-out pairs


def test_a_held_out_pair_alone_is_a_batch(before: Version, held_out: Interactions) -> None:
    root = before.workspace.root
    after = run(root, pair(held_out.rows[2]))
    gone = (held_out.rows == held_out.rows[2]).all(axis=1)
    assert gone.sum() == 2
    assert_left(after, held_out, gone)
    assert after.manifest.version == 3
    assert (after.model, after.manifest.tombstones) == (before.model, ())
    report = report_of(root, "unlearn-000003")
    assert report["requests"]["applied"] == 1
    counts = [report[key] for key in ("interactions_erased", "rows_updated", "rows_forgotten", "held_out_erased")]
    assert counts == [0, 0, 0, 4]
    assert run(root, pair(held_out.rows[2])).manifest.version == 3
    assert report_of(root, "unlearn-000003-nothing-to-do")["requests"]["duplicate"] == 1
    noted = run(root, pair(held_out.rows[2]) | {"request_id": "again"})  # another request, for the ledger alone
    assert (noted.manifest.version, noted.model) == (4, before.model)
    assert report_of(root, "unlearn-000004")["requests"]["duplicate"] == 1


def test_a_pair_in_training_and_held_out_loses_both(before: Version, held_out: Interactions) -> None:
    after = run(before.workspace.root, pair(ROWS[0]), pair(held_out.rows[2]))
    gone = np.isin(np.arange(len(held_out)), [0, 2, len(held_out) - 1])
    assert_left(after, held_out, gone)
    same = np.flatnonzero((ROWS[0] == ROWS).all(axis=1))
    assert after.erased_ids().tolist() == same.tolist()
    assert report_of(before.workspace.root, "unlearn-000003")["requests"]["applied"] == 2


# -------------------------------------------------------------------------------------------------- looking and guards


def test_a_dry_run_says_what_else_would_go(
    before: Version, held_out: Interactions, capsys: pytest.CaptureFixture[str]
) -> None:
    root = before.workspace.root
    path = request_file(root.with_suffix(".parquet"), whole_user(BUSY), whole_item(NEVER_SEEN), pair(held_out.rows[2]))
    files = tree(root)
    assert unlearn(config(root, path, dry_run=True)) == 0
    assert tree(root) == files
    gone = np.isin(held_out.rows, [BUSY, SIZES[0] + NEVER_SEEN]).any(axis=1)
    gone |= (held_out.rows == held_out.rows[2]).all(axis=1)
    mine = small_interactions().rows[:, 0] == BUSY
    users = len({BUSY, *held_out.rows[gone][:, 0]})
    printed = capsys.readouterr().out
    assert f"dry run: {mine.sum()} interactions of {users} users would be erased" in printed
    assert f"2 users and items with their ids, and {2 * gone.sum()} validation and test pairs would go, too" in printed
    assert "row 2: item: applied, 0 interactions" in printed
    assert "nothing was changed: version 2 stays current" in printed


def test_the_guard_counts_users_without_training_data(before: Version, held_out: Interactions) -> None:
    root = before.workspace.root
    run(root, *(pair(rows) for rows in ROWS[ROWS[:, 0] == BUSY]))
    stranger: dict[str, Any] = pair(held_out.rows[2])
    assert held_out.rows[2, 0] != BUSY
    message = "--max-users = 1, but these requests erase 0 interactions of 2 users"
    refuse(root, [whole_user(BUSY), stranger], GuardError, message, max_users=1)
    refuse(root, [whole_user(BUSY)], GuardError, "of 1 users", max_users=0)
    assert run(root, whole_user(BUSY), stranger, max_users=2, max_interactions=0).manifest.version == 4
