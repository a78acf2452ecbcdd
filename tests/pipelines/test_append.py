"""jobs/append.py: further interactions, users and items, which the model knows nothing of until it is trained anew."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ifru_dist.errors import ConfigError, IfruError, InputError, WorkspaceError
from ifru_dist.interactions import Interactions
from ifru_dist.models.initial import unseen_rows
from ifru_dist.pipelines.append import AppendConfig, append
from ifru_dist.pipelines.audit import AuditConfig, audit
from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.export import ExportConfig, export
from ifru_dist.pipelines.release import ReleaseConfig, release
from ifru_dist.pipelines.suppressing import key_and_list
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.appended import FRESH, NEW_ITEM, NEW_USER, PRESENT, appended, pairs_of, write_logs
from tests.pipelines.batches import BATCH, ROWS, copy, report_of, run
from tests.pipelines.planted import planted_workspace, requests_of
from tests.pipelines.small import (
    BUSY,
    SIZES,
    erase,
    one_torch_thread,
    pair,
    small_workspace,
    tree,
    whole_item,
    whole_user,
)
from tests.workspaces import item_id, user_id

_ROOT = Path(__file__).resolve().parents[2]
USERS = SIZES[0]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def request(user: int, item: str) -> dict[str, Any]:
    return {"user": str(user), "item": item, "scope": "interaction"}


def of_old_rows(version: Version) -> np.ndarray:
    """Embeddings of the rows that the workspace had before."""
    values, items = version.embeddings(), version.layout.offsets[1]
    return np.concatenate([values[:USERS], values[items : items + SIZES[1]]])


def test_interactions_and_rows_come_behind_those_that_there_are(tmp_path: Path) -> None:
    before = small_workspace(tmp_path / "ws")
    after = appended(tmp_path / "ws", FRESH)
    assert (after.manifest.kind, after.manifest.epoch, before.manifest.epoch) == ("append", 2, 1)
    assert after.layout.sizes == (SIZES[0] + 2, SIZES[1] + 1)
    assert after.ids(0).to_pylist() == [*before.ids(0).to_pylist(), NEW_USER, NEW_USER + 1]
    assert after.ids(1).to_pylist() == [*before.ids(1).to_pylist(), NEW_ITEM]
    n_before = before.manifest.n_examples
    assert after.train().ids.tolist() == list(range(n_before + len(FRESH)))
    assert pairs_of(after)[:n_before] == pairs_of(before)
    assert sorted(pairs_of(after)[n_before:]) == sorted(FRESH)
    assert after.train().labels[:n_before].tolist() == before.train().labels.tolist()
    labels = dict(zip(pairs_of(after)[n_before:], after.train().labels[n_before:].tolist(), strict=True))
    assert labels == {found: float(number % 2) for number, found in enumerate(FRESH)}
    for part in ("valid", "test"):
        assert pairs_of(after, part) == pairs_of(before, part)
    report = report_of(tmp_path / "ws", "append-000003")
    assert (report["version_before"], report["version_after"], report["epoch"]) == (2, 3, 2)
    assert report["interactions_added"] == len(FRESH)
    assert report["rows_added"] == {"user": 2, "item": 1}
    assert report["suppressed"] is None
    assert report["model_waits"] is True
    assert audit(AuditConfig(workspace=tmp_path / "ws")) == 0


def test_the_incidence_of_every_partition_is_that_of_the_examples(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    after = appended(tmp_path / "ws", FRESH)
    incidence, train = after.mapped_incidence(range(after.layout.partitions)).whole(), after.train()
    seen = {
        (int(row), int(other), int(example))
        for row, start, stop in zip(incidence.rows, incidence.indptr, incidence.indptr[1:], strict=False)
        for other, example in zip(incidence.others[start:stop, 0], incidence.example[start:stop], strict=True)
    }
    expected = set()
    for (user, item), example in zip(train.rows.tolist(), train.ids.tolist(), strict=True):
        expected |= {(user, item, example), (item, user, example)}
    assert seen == expected


def test_new_rows_hold_what_rows_without_data_hold_and_the_others_what_they_held(tmp_path: Path) -> None:
    before = small_workspace(tmp_path / "ws")
    before = erase(tmp_path / "ws", pair(ROWS[60]))  # with a delta
    after = appended(tmp_path / "ws", FRESH)
    assert of_old_rows(after).tobytes() == before.embeddings().tobytes()
    spec, seed = before.model.spec, before.model.seed
    items = after.layout.offsets[1] + SIZES[1]
    new_users = unseen_rows("user", [str(NEW_USER), str(NEW_USER + 1)], 4, spec.init_std, seed)
    assert after.embeddings()[USERS : USERS + 2].tobytes() == new_users.tobytes()
    assert after.embeddings()[items:].tobytes() == unseen_rows("item", [NEW_ITEM], 4, spec.init_std, seed).tobytes()
    assert (after.model.trained_examples, after.model.trained_sizes) == (before.manifest.n_examples, SIZES)


def test_pairs_that_are_there_are_counted_and_dropped(tmp_path: Path) -> None:
    rows = np.array([[0, USERS + 29], [1, USERS + 29]])
    held_out = Interactions(rows, np.array([0, 1], np.float32))
    before = small_workspace(tmp_path / "ws", held_out=held_out)
    there = [(user_id(0), item_id(29)), (user_id(1), item_id(29))]
    assert not PRESENT.intersection(there)
    known = sorted(PRESENT)[:4]
    after = appended(tmp_path / "ws", [*there, *known, *FRESH[-3:], known[0]])
    report = report_of(tmp_path / "ws", "append-000003")
    assert report["already_there"] == {"train": 4, "valid": 2, "test": 0}  # in both held-out parts: counted once
    assert (report["duplicates"], report["interactions_added"]) == (1, 3)
    assert len(after.train()) == len(before.train()) + 3
    assert appended(tmp_path / "ws", known).manifest.version == 3
    assert report_of(tmp_path / "ws", "append-000003-nothing-to-do")["interactions_added"] == 0


def test_what_was_erased_does_not_come_back(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erase(root, whole_user(3), whole_item(4), pair(ROWS[60]))
    gone = (user_id(int(ROWS[60, 0])), item_id(int(ROWS[60, 1]) - USERS))
    brought = [(user_id(3), item_id(1)), (NEW_USER, item_id(4)), gone, (NEW_USER, item_id(5))]
    frame = pd.DataFrame(brought, columns=["user", "item"]).assign(rating=[1.0, 0.0, 1.0, np.nan])
    frame = pd.concat([frame, frame.iloc[:1].assign(rating=np.nan), frame.iloc[:1].assign(user=NEW_USER + 1)])
    frame.to_parquet(tmp_path / "more.parquet")
    logs = str(tmp_path / "more.parquet")
    assert append(AppendConfig(workspace=root, logs=logs, positive_threshold=0.5, max_bad_share=1)) == 0
    after = open_version(Workspace(root), check_content=True)
    assert pairs_of(after)[-1] == (NEW_USER + 1, item_id(1))
    assert not {user_id(3), NEW_USER}.intersection(after.ids(0).to_pylist())
    report = report_of(root, "append-000004")
    assert report["suppressed"] == {"user": 1, "item": 1, "interaction": 1}
    assert (report["interactions_added"], report["quarantined"]) == (1, {"bad_rating": 2})
    quarantined = pq.read_table(root / "quarantine" / "append-000004.parquet").to_pylist()
    assert [row["user"] for row in quarantined] == [str(NEW_USER)]
    assert after.erased_ids().tolist() == sorted(
        set(range(after.manifest.n_examples)) - set(after.train().ids.tolist())
    )
    assert len(after.forgotten_rows()) == 2
    assert after.ids(0).to_pylist()[3] is None
    assert not after.manifest.forgotten
    assert not after.manifest.tombstones


def test_a_key_is_needed_only_where_something_was_erased(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    (tmp_path / "ws.key").rename(tmp_path / "elsewhere")
    appended(tmp_path / "ws", FRESH[:3])
    (tmp_path / "elsewhere").rename(tmp_path / "ws.key")
    erase(tmp_path / "ws", whole_user(3))
    (tmp_path / "ws.key").rename(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError, match="key file"):
        appended(tmp_path / "ws", FRESH[3:])
    assert appended(tmp_path / "ws", FRESH[3:], key_file=tmp_path / "elsewhere").manifest.kind == "append"


def test_who_signs_up_again_is_a_new_row_and_can_be_erased_again(tmp_path: Path) -> None:
    root, user = tmp_path / "ws", user_id(3)
    small_workspace(root)
    erased = erase(root, whole_user(3))
    assert release(ReleaseConfig(workspace=root, user=str(user), reason="again")) == 0
    after = appended(root, [(user, item_id(1)), (user, item_id(2))])
    assert after.ids(0).to_pylist()[3] is None
    assert after.ids(0).to_pylist()[-1] == user
    again = run(root, whole_user(3))
    assert again.manifest.version == after.manifest.version + 1
    assert key_and_list(Workspace(root), None)[1].holds(str(user), None)
    assert again.train().rows.tolist() == appended_rows(erased, again)
    with pytest.raises(InputError, match="no usable rows"):
        appended(root, [(user, item_id(1))])
    report = report_of(root, f"unlearn-{again.manifest.version:06d}")
    assert (report["requests"]["applied"], report["interactions_erased"], report["solver"]) == (1, 2, None)


def appended_rows(older: Version, now: Version) -> list[list[int]]:
    """Rows of an older version's examples where the tables are longer."""
    return (older.train().rows + np.asarray(now.layout.offsets) - np.asarray(older.layout.offsets)).tolist()


MODELS: list[dict[str, Any]] = [
    {},
    {"name": "lightgcn", "layers": 2},
    {"loss": "bpr", "negatives": 2},
    {"name": "lightgcn", "loss": "bpr", "negatives": 2},
]


@pytest.mark.parametrize("spec", MODELS, ids=str)
def test_unlearning_gives_the_bits_of_a_workspace_that_nothing_was_appended_to(
    tmp_path: Path, spec: dict[str, Any]
) -> None:
    small_workspace(tmp_path / "ws", **spec)
    copy(tmp_path / "ws", tmp_path / "longer")
    longer = appended(tmp_path / "longer", FRESH)
    plain, after = run(tmp_path / "ws", *BATCH), run(tmp_path / "longer", *BATCH)
    assert of_old_rows(after).tobytes() == plain.embeddings().tobytes()
    assert of_old_rows(longer).tobytes() != plain.embeddings().tobytes()
    assert after.model.unsolved_interactions == plain.model.unsolved_interactions
    reports = [report_of(tmp_path / "ws", "unlearn-000003"), report_of(tmp_path / "longer", "unlearn-000004")]
    assert reports[0]["influence_residual"] == reports[1]["influence_residual"]
    assert reports[0]["solver"] == reports[1]["solver"]
    appended_of_busy = sum(user == user_id(BUSY) for user, _ in FRESH)
    named = sum(user == user_id(BUSY) or item == BATCH[2]["item"] for user, item in FRESH)
    assert named >= appended_of_busy > 0
    assert reports[1]["interactions_erased"] == reports[0]["interactions_erased"] + named


@pytest.mark.slow
@pytest.mark.parametrize("model", ["neumf", "fm"])
def test_a_model_with_parameters_or_fields_of_its_own_gives_the_same_bits(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    options: dict[str, Any] = {"dim": 4, "epochs": 3, "batch_size": 128, "learning_rate": 0.02, "l2_dense": 0.1}
    planted_workspace(root, fields=3 if model == "fm" else 2)
    train(TrainConfig(workspace=root, model=model, **options))
    before = open_version(Workspace(root))
    copy(root, tmp_path / "longer")
    pairs = [(NEW_USER, item_id(1)), (NEW_USER, NEW_ITEM), (user_id(1), NEW_ITEM)]
    logs = write_logs(tmp_path / "more.parquet", pairs, hour=[1000, 77, 1001])
    append(AppendConfig(workspace=tmp_path / "longer", logs=str(logs), positive_threshold=0.5))
    flags = {} if model == "fm" else {"dense": "full"}
    plain, after = (run(root, *requests_of(before), **flags) for root in (root, tmp_path / "longer"))
    assert len(after.train()) == len(plain.train()) + 3
    for table in range(len(plain.layout.tables)):
        old = plain.embeddings()[plain.layout.table_range(table)]
        assert after.embeddings()[after.layout.table_range(table)][: len(old)].tobytes() == old.tobytes()
    assert {name: values.tobytes() for name, values in after.dense().items()} == {
        name: values.tobytes() for name, values in plain.dense().items()
    }


def test_erasing_what_was_appended_only_removes_data(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    longer = appended(root, FRESH)
    after = run(root, request(*FRESH[0]), request(NEW_USER, NEW_ITEM))
    assert after.embeddings().tobytes() == longer.embeddings().tobytes()
    assert after.model.unsolved_interactions == 0
    assert set(pairs_of(longer)) - set(pairs_of(after)) == {FRESH[0], (NEW_USER, NEW_ITEM)}
    report = report_of(root, "unlearn-000004")
    assert (report["interactions_erased"], report["rows_updated"], report["solver"]) == (2, 0, None)
    assert run(root, {"user": str(NEW_USER), "item": None, "scope": "user"}).ids(0).to_pylist()[USERS] is None


def test_after_training_what_was_appended_counts(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    appended(root, FRESH)
    assert train(TrainConfig(workspace=root, dim=4, epochs=2)) == 0
    trained = open_version(Workspace(root))
    assert trained.model.trained_examples is None
    assert len(trained.trained()) == len(trained.train()) == trained.model.trained_interactions
    after = run(root, request(NEW_USER, item_id(3)))
    assert after.embeddings().tobytes() != trained.embeddings().tobytes()
    assert report_of(root, "unlearn-000005")["solver"] is not None


def test_two_appends_keep_what_the_model_was_trained_on(tmp_path: Path) -> None:
    first = small_workspace(tmp_path / "ws")
    appended(tmp_path / "ws", FRESH[:4])
    after = appended(tmp_path / "ws", FRESH[4:])
    assert (after.model.trained_examples, after.model.trained_sizes) == (first.manifest.n_examples, SIZES)
    assert len(after.trained()) == len(first.train())
    assert after.manifest.epoch == 3


def test_figures_are_those_of_what_the_model_was_trained_on(tmp_path: Path) -> None:
    rows = ROWS[::9].copy()
    held_out = Interactions(rows, (np.arange(len(rows)) % 2).astype(np.float32))
    small_workspace(tmp_path / "ws", name="lightgcn", held_out=held_out)
    copy(tmp_path / "ws", tmp_path / "longer")
    pairs = [(user, item) for user, item in FRESH if item != NEW_ITEM]  # a new item would be a candidate
    appended(tmp_path / "longer", pairs)
    reports = []
    for root in (tmp_path / "ws", tmp_path / "longer"):
        number = run(root, *BATCH).manifest.version
        assert evaluate(EvaluateConfig(workspace=root)) == 0
        reports.append(report_of(root, f"evaluate-{number:06d}"))
    for name in ("auc", "auc_or", "erased", "methods", "recovery_pairs"):
        assert reports[0][name] == reports[1][name], name


def test_other_jobs_go_on(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root, name="lightgcn")
    before = run(root, whole_user(7))
    longer = appended(root, FRESH)
    assert calibrate(CalibrateConfig(workspace=root, workers=0, dry_run=True, share=0.05, dampings=(1.0,))) in (0, 6)
    export(ExportConfig(workspace=root, to=tmp_path / "a.npz", since=2, outputs=True))
    assert NEW_USER in np.load(tmp_path / "a.npz")["user_ids"].tolist()
    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    after = run(root, *BATCH)
    assert len(after.train()) < len(longer.train())
    assert before.manifest.version < after.manifest.version
    assert audit(AuditConfig(workspace=root)) == 0


def test_versions_before_it_hold_nothing_erased_where_nothing_was_erased(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    appended(root, FRESH)
    assert vacuum(VacuumConfig(workspace=root, keep_versions=3)) == 0
    assert report_of(root, "vacuum-000003-nothing-to-do")["versions_holding_erased"] == []
    erase(root, whole_user(3))
    assert vacuum(VacuumConfig(workspace=root, keep_versions=9)) == 0
    assert report_of(root, "vacuum-000005")["versions_holding_erased"] == [1, 2, 3, 4]


def test_a_vacuum_after_it_leaves_no_erased_id_behind(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    erase(root, whole_item(4))
    appended(root, FRESH)
    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    data = {name: content for name, content in tree(root).items() if content and not name.startswith("reports")}
    assert not [name for name, content in data.items() if item_id(4).encode() in content]
    assert [name for name, content in data.items() if item_id(5).encode() in content]


def refuse(root: Path, error: type[IfruError], expected: str, **changes: Any) -> None:
    before = Workspace(root).versions()
    with pytest.raises(error, match=expected):
        append(AppendConfig(**{"workspace": root, "positive_threshold": 0.5} | changes))
    assert Workspace(root).versions() == before


def test_ids_of_another_kind_and_bad_options_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    logs = str(write_logs(tmp_path / "text.parquet", [("0012", item_id(1))]))
    refuse(root, InputError, "table user are integers", logs=logs)
    good = str(write_logs(tmp_path / "good.parquet", FRESH[:2]))
    refuse(root, ConfigError, "--positive-threshold is missing", logs=good, positive_threshold=None)
    refuse(root, InputError, "no column 'who'", logs=good, user_column="who")
    with pytest.raises(WorkspaceError):
        append(AppendConfig(workspace=tmp_path / "none", logs=good, positive_threshold=0.5))
    assert not (tmp_path / "none").exists()


def test_texts_that_are_integers_fit_a_table_of_integers_and_the_other_way_round(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    logs = write_logs(tmp_path / "text.parquet", [(str(NEW_USER), 77), (str(user_id(1)), 78)])
    append(AppendConfig(workspace=tmp_path / "ws", logs=str(logs), positive_threshold=0.5))
    after = open_version(Workspace(tmp_path / "ws"), check_content=True)
    assert pairs_of(after)[-2:] in ([(NEW_USER, "77"), (user_id(1), "78")], [(user_id(1), "78"), (NEW_USER, "77")])


def test_whole_floats_fit_a_table_of_integers_and_empty_cells_are_set_apart(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    logs = write_logs(tmp_path / "floats.parquet", [(float(user_id(1)), "new"), (float(NEW_USER), "new"), (None, "x")])
    assert pq.read_schema(logs).field("user").type == "double"
    options = {"positive_threshold": 0.5, "max_bad_share": 0.5}
    append(AppendConfig(workspace=tmp_path / "ws", logs=str(logs), **options))
    assert pairs_of(open_version(Workspace(tmp_path / "ws")))[-2:] == [(user_id(1), "new"), (NEW_USER, "new")]
    assert report_of(tmp_path / "ws", "append-000003")["quarantined"] == {"null_user": 1}
    csv = tmp_path / "floats.csv"
    csv.write_text(f"user,item,rating\n{user_id(2)}.0,new,1\n")
    refuse(tmp_path / "ws", InputError, "CSV integers with .0, .* .astype", logs=str(csv))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    logs = write_logs(tmp_path / "more.parquet", FRESH)
    arguments = ["--workspace", str(tmp_path / "ws"), "--logs", str(logs), "--positive-threshold", "0.5"]
    command = [sys.executable, "jobs/append.py", *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(FRESH)} training interactions appended" in done.stdout
