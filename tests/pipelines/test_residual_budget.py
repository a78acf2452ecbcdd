"""Streams of batches: what they leave unsolved adds up, is told when it is too much, and nothing else is carried on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.residual_budget import ResidualBudget
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.unlearn import RETRAINING_DUE, unlearn
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import create_key
from ifru_dist.workspace.manifest import decode, encode
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import BATCH, ERASED, MODELS, ROWS, config, copy, report_of, run
from tests.pipelines.small import LONER, SIZES, pair, request_file, small_workspace, tree, whole_item

STREAM = ([pair(ROWS[100]), pair(ROWS[101])], BATCH[1:], [pair(ROWS[150])])
"""Three batches; none of them names what another does."""


def status(root: Path, *rows: dict[str, Any], **changes: Any) -> int:
    return unlearn(config(root, request_file(root.with_suffix(".parquet"), *rows), **changes))


def unsolved(root: Path, version: int) -> float:
    """What a batch left unsolved: the share its report tells, of the erased interactions that had an end which stays.

    An end stays where an interaction is left at it; all other ends of erased interactions are reset.
    """
    before, after = (open_version(Workspace(root), number) for number in (version - 1, version))
    gone = np.isin(np.arange(len(ROWS)), after.erased_ids()) & ~np.isin(np.arange(len(ROWS)), before.erased_ids())
    stays = np.bincount(after.train().rows.ravel(), minlength=sum(SIZES)) > 0
    report = report_of(root, f"unlearn-{version:06d}")
    assert report["interactions_erased"] == gone.sum()
    return report["influence_residual"] * int((stays[ROWS[gone, 0]] | stays[ROWS[gone, 1]]).sum())


@MODELS
def test_what_batches_leave_unsolved_adds_up_until_a_model_is_trained(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root, name=model)
    assert (before.model.unsolved_interactions, before.trained_interactions) == (0.0, len(ROWS))
    spent = 0.0
    for number, batch in enumerate(STREAM, start=3):
        after = run(root, *batch, residual_budget=0.5)
        budget = report_of(root, f"unlearn-{number:06d}")["residual_budget"]
        assert budget["spent_before"] == pytest.approx(spent)
        spent += unsolved(root, number)
        assert budget["spent_after"] == after.model.unsolved_interactions == pytest.approx(spent)
        assert budget["share_after"] == pytest.approx(spent / len(ROWS))
        assert (budget["budget"], budget["retraining_due"]) == (0.5, False)
        assert after.trained_interactions == len(ROWS)
    assert spent > 1

    train(TrainConfig(workspace=root, dim=4, epochs=1, model=model))
    trained = open_version(Workspace(root))
    assert trained.model.unsolved_interactions == 0.0
    assert trained.trained_interactions == len(trained.train()) < len(ROWS)


def test_past_the_budget_the_batch_is_committed_and_retraining_is_due(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    assert status(root, *STREAM[0], residual_budget=0.03) == 0
    assert "retraining is due" not in capsys.readouterr().out
    spent = unsolved(root, 3) / len(ROWS)
    assert 0 < spent < 0.03
    assert status(root, *STREAM[1], residual_budget=0.03) == RETRAINING_DUE == 9
    after = open_version(Workspace(root), check_content=True)
    assert after.manifest.version == 4
    assert after.model.unsolved_interactions == pytest.approx(unsolved(root, 3) + unsolved(root, 4))
    budget = report_of(root, "unlearn-000004")["residual_budget"]
    assert budget["retraining_due"] is True
    assert budget["share_after"] > budget["budget"] == 0.03
    assert "retraining is due" in capsys.readouterr().out
    assert "run jobs/train.py" in (root / "reports" / "unlearn-000004" / "summary.md").read_text()


def test_a_batch_that_does_nothing_tells_of_a_spent_budget_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    assert status(root, *BATCH, residual_budget=0) == RETRAINING_DUE
    before = tree(root)
    capsys.readouterr()
    assert status(root, *BATCH, residual_budget=0) == RETRAINING_DUE
    changed = {name for name, content in tree(root).items() if before.get(name, "new") != content}
    folder = "reports/unlearn-000003-nothing-to-do"
    assert changed == {folder, f"{folder}/report.json", f"{folder}/summary.md"}
    assert "retraining is due" in capsys.readouterr().out
    budget = report_of(root, "unlearn-000003-nothing-to-do")["residual_budget"]
    assert budget["spent_before"] == budget["spent_after"] == pytest.approx(unsolved(root, 3))
    assert budget["retraining_due"] is True

    before = tree(root)
    assert status(root, pair(ROWS[100]), residual_budget=0, dry_run=True) == 0
    assert "retraining is due" in capsys.readouterr().out
    assert status(root, pair(ROWS[100]), dry_run=True) == 0
    printed = capsys.readouterr().out
    assert f"share of influence left): {budget['spent_after']:.1f}, {budget['share_after']:.2%} of" in printed
    assert "retraining is due" not in printed
    assert tree(root) == before


def test_what_needs_no_solve_leaves_nothing_unsolved(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    assert status(root, whole_item(SIZES[1] - 1), residual_budget=0) == 0  # it has no interaction
    after = open_version(Workspace(root))
    assert (after.manifest.version, after.model.unsolved_interactions) == (3, 0.0)
    assert report_of(root, "unlearn-000003")["residual_budget"]["spent_after"] == 0.0


@MODELS
def test_nothing_is_left_of_an_interaction_whose_two_ends_are_reset(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    item = ROWS[ROWS[:, 0] == LONER][0, 1]
    others = ROWS[(ROWS[:, 1] == item) & (ROWS[:, 0] != LONER)]
    first = run(root, *map(pair, np.unique(others, axis=0)))  # now the user and the item have only each other
    left, other = first.train().rows, ROWS[100]
    assert ((left == [LONER, item]).any(axis=1)).sum() == ((left == [LONER, item]).all(axis=1)).sum() == 1
    assert other[1] != item

    def spent(name: str, *rows: np.ndarray) -> tuple[float, dict[str, Any]]:
        after = run(copy(root, tmp_path / name), *map(pair, rows))
        return after.model.unsolved_interactions - first.model.unsolved_interactions, report_of(
            tmp_path / name, "unlearn-000004"
        )

    both = np.array([LONER, item])
    alone, report = spent("alone", both)
    assert (alone, report["interactions_erased"], report["subgraph"]["rows_reset"]) == (0.0, 1, 2)
    together, report = spent("together", both, other)
    more = int((left == other).all(axis=1).sum())
    assert (report["interactions_erased"], report["subgraph"]["rows_reset"]) == (1 + more, 2)
    assert together == pytest.approx(report["influence_residual"] * more)
    assert report["influence_residual"] > 0.01  # the difference shows


def test_the_budget_is_a_share_of_what_the_model_was_trained_on() -> None:
    budget = ResidualBudget(trained=200, spent_before=6.0, unsolved=4.0, budget=0.05)
    assert (budget.spent_after, budget.share_after, budget.retraining_due) == (10.0, 0.05, False)
    assert ResidualBudget(trained=199, spent_before=6.0, unsolved=4.0, budget=0.05).retraining_due
    assert not ResidualBudget(trained=0, spent_before=0.0, unsolved=0.0, budget=0.0).retraining_due
    for value in (-0.1, float("inf")):
        with pytest.raises(ConfigError, match="--residual-budget = "):
            validated(config(Path("ws"), Path("r"), residual_budget=value))


def test_a_manifest_of_an_earlier_release_has_spent_nothing_and_knows_what_it_was_trained_on(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *STREAM[0])
    train(TrainConfig(workspace=root, dim=4, epochs=1))
    path = Workspace(root).manifest_path(4)
    value = json.loads(path.read_bytes().split(b"\n", 1)[1])
    for key in ("calibration", "trained_interactions", "unsolved_interactions"):
        del value["model"][key]
    path.write_bytes(_file(json.dumps(value)))
    before = open_version(Workspace(root))
    assert before.model.calibration is before.model.trained_interactions is None
    assert before.model.unsolved_interactions == 0.0
    assert before.trained_interactions == len(before.train())
    after = run(root, *STREAM[2])
    assert after.model.unsolved_interactions == pytest.approx(unsolved(root, 5))
    assert decode(encode(after.manifest), "x.json") == after.manifest
    share = report_of(root, "unlearn-000005")["residual_budget"]["share_after"]
    assert share == pytest.approx(unsolved(root, 5) / len(before.train()))


def _file(body: str) -> bytes:
    """A manifest's file around a body, as a release without these fields wrote it."""
    return f"{json.dumps({'sha256': hashlib.sha256(body.encode()).hexdigest()})}\n{body}\n".encode()


# ------------------------------------------------------------------------------------------- nothing else is carried on


def fresh(root: Path, version: Version) -> Version:
    """A workspace that knows of a version only the data that are left and the embeddings, imported."""
    workspace = Workspace(root)
    ids = tuple(version.ids(table) for table in range(2))
    held_out = {part: version.held_out(part) for part in ("valid", "test")}
    with workspace.lock("test"):
        create_key(workspace.default_key_file)
        data = Dataset(ids=ids, train=version.train(), **held_out)
        write_dataset(workspace, data, version.layout.partitions)
    users = version.layout.sizes[0]
    embeddings = version.embeddings()
    np.savez(
        root.with_suffix(".npz"),
        user=embeddings[:users],
        item=embeddings[users:],
        user_ids=ids[0].to_numpy(),
        item_ids=np.array(ids[1].to_pylist()),
    )
    spec = version.model.spec
    train(TrainConfig(workspace=root, model=spec.name, dim=spec.dim, l2=spec.l2, from_file=root.with_suffix(".npz")))
    return open_version(workspace)


@MODELS
def test_the_second_batch_depends_on_nothing_but_the_version_it_starts_from(tmp_path: Path, model: str) -> None:
    root, other = tmp_path / "ws", tmp_path / "fresh"
    small_workspace(root, name=model)
    first = run(root, *STREAM[0], *STREAM[2])
    imported = fresh(other, first)
    assert np.array_equal(imported.embeddings(), first.embeddings())
    second, alone = run(root, *STREAM[1]), run(other, *STREAM[1])
    assert not np.array_equal(second.embeddings(), first.embeddings())
    assert np.array_equal(second.embeddings(), alone.embeddings())
    for key in ("influence_residual", "solver", "subgraph"):
        assert report_of(root, "unlearn-000004")[key] == report_of(other, "unlearn-000003")[key]


@MODELS
def test_no_file_of_a_version_holds_a_gradient(tmp_path: Path, model: str) -> None:
    """Of floating point numbers there are the embeddings of changed rows only, once each; a tilt would need as many."""
    root = tmp_path / "ws"
    small_workspace(root, name=model)
    before = {path for path in root.rglob("*.arrow")}
    after = run(root, *BATCH)
    new = {path.relative_to(root).as_posix(): path for path in {*root.rglob("*.arrow")} - before}
    floats = 0
    for name, path in new.items():
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        numbers = sum(_floats(table.column(column)) for column in table.column_names)
        assert numbers == 0 or name.startswith("tables/")
        floats += numbers
    changed = np.unique(ROWS[ERASED])
    assert floats == len(changed) * 4
    assert set(new) <= {entry.path for entry in after.manifest.files()}
    assert {path for path in root.rglob("*") if path.is_file()} == before | set(new.values()) | {
        *(root / "versions").iterdir(),
        *(root / "reports").rglob("*.json"),
        *(root / "reports").rglob("*.md"),
        root / "lock",
    }


def _floats(column: pa.ChunkedArray) -> int:
    """Floating point numbers in a column, those inside lists included."""
    values = column.combine_chunks()
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        values = values.flatten()
    return len(values) if pa.types.is_floating(values.type) else 0
