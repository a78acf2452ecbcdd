"""jobs/train.py --from --trained-on: what was erased since a model's data is unlearned before it becomes current."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifru_dist.errors import ConfigError, IfruError, InputError, WorkspaceError
from ifru_dist.influence.options import USABLE
from ifru_dist.pipelines.audit import AuditConfig, audit
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.unlearn import RETRAINING_DUE
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.appended import FRESH, NEW_ITEM, NEW_USER, appended
from tests.pipelines.batches import BATCH, ROWS, copy, report_of, run
from tests.pipelines.small import BUSY, SIZES, one_torch_thread, pair, small_workspace, whole_user
from tests.workspaces import item_id, user_id

MODELS: list[dict[str, Any]] = [
    {"model": "mf", "l2": 0.02},
    {"model": "lightgcn", "l2": 0.02},
    {"model": "mf", "loss": "bpr", "negatives": 2, "l2": 0.02},
]
EMBEDDINGS = np.random.default_rng(2).normal(size=(sum(SIZES), 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def model_file(path: Path, embeddings: np.ndarray = EMBEDDINGS) -> Path:
    """A model of the first version's users and items, all of them."""
    ids = {"user_ids": [user_id(row) for row in range(SIZES[0])], "item_ids": [item_id(row) for row in range(SIZES[1])]}
    np.savez(path, user=embeddings[: SIZES[0]], item=embeddings[SIZES[0] :], **ids)
    return path


def adopted(root: Path, version: int, file: Path | None = None, **options: Any) -> Version:
    """Import a file as trained on a version's data; returns the version after it."""
    file = file or model_file(root.with_name("model.npz"))
    config = TrainConfig(**{"workspace": root, "from_file": file, "trained_on": version, "workers": 0} | options)
    assert train(config) in (0, RETRAINING_DUE)
    return open_version(Workspace(root), check_content=True)


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_it_is_as_if_the_model_had_been_there_before_the_erasures(tmp_path: Path, options: dict[str, Any]) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    copy(root, tmp_path / "first")
    file = model_file(tmp_path / "model.npz")
    assert train(TrainConfig(workspace=tmp_path / "first", from_file=file, **options)) == 0
    expected = run(tmp_path / "first", *BATCH, pair(ROWS[60]))
    run(root, *BATCH)
    before = run(root, pair(ROWS[60]))
    after = adopted(root, 1, **options)
    assert after.embeddings().tobytes() == expected.embeddings().tobytes()
    assert after.embeddings().tobytes() != EMBEDDINGS.tobytes()
    assert after.model.unsolved_interactions == expected.model.unsolved_interactions
    assert after.manifest.version == before.manifest.version + 1  # one commit
    assert (after.manifest.kind, after.model.source) == ("train", "imported")
    assert after.manifest.suppression == before.manifest.suppression
    assert after.manifest.n_erased == before.manifest.n_erased
    report = report_of(root, f"train-{after.manifest.version:06d}")
    assert report["unlearned"]["interactions_erased"] == after.manifest.n_erased
    assert report["unlearned"]["solver"]["status"] in USABLE
    assert report["left_out"] == {"interactions": after.manifest.n_erased, "users_and_items": 3}
    assert after.model.trained_version == after.manifest.version
    assert after.trained_interactions == before.manifest.n_examples


def test_only_what_was_erased_after_the_version_is_unlearned(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    middle = run(root, *BATCH)
    copy(root, tmp_path / "first")
    file = model_file(tmp_path / "model.npz")
    train(TrainConfig(workspace=tmp_path / "first", from_file=file, without_erased=True, l2=0.02))
    expected = run(tmp_path / "first", pair(ROWS[60]), whole_user(7))
    last = run(root, pair(ROWS[60]), whole_user(7))
    after = adopted(root, middle.manifest.version, l2=0.02)
    assert after.embeddings().tobytes() == expected.embeddings().tobytes()
    report = report_of(root, f"train-{after.manifest.version:06d}")
    erased = last.manifest.n_erased - middle.manifest.n_erased
    assert report["unlearned"]["interactions_erased"] == erased
    assert after.trained_interactions == len(middle.train())


def test_a_model_of_data_before_an_append_knows_nothing_of_it(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    copy(root, tmp_path / "first")
    file = model_file(tmp_path / "model.npz")
    train(TrainConfig(workspace=tmp_path / "first", from_file=file, l2=0.02))
    expected = run(tmp_path / "first", *BATCH)
    appended(root, FRESH)
    run(root, *BATCH)
    run(root, {"user": str(NEW_USER), "item": None, "scope": "user"})
    after = adopted(root, 2, l2=0.02)
    items = after.layout.offsets[1]
    values = after.embeddings()
    old = np.concatenate([values[: SIZES[0]], values[items : items + SIZES[1]]])
    assert old.tobytes() == expected.embeddings().tobytes()
    assert not values[SIZES[0]].any()
    assert (after.model.trained_examples, after.model.trained_sizes) == (expected.manifest.n_examples, SIZES)
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    report = report_of(root, f"evaluate-{after.manifest.version:06d}")
    assert report["erased"] == 0
    again = run(root, pair(ROWS[60]), {"user": str(user_id(5)), "item": NEW_ITEM, "scope": "interaction"})
    assert evaluate(EvaluateConfig(workspace=root)) == 0
    assert report_of(root, f"evaluate-{again.manifest.version:06d}")["erased"] == int(
        (ROWS[60] == ROWS).all(axis=1).sum()
    )
    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    assert audit(AuditConfig(workspace=root)) == 0


def test_where_nothing_was_erased_since_it_is_the_file(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    after = adopted(root, 2)
    assert after.embeddings().tobytes() == EMBEDDINGS.tobytes()
    assert (after.model.trained_examples, after.model.trained_sizes) == (None, None)
    report = report_of(root, "train-000003")
    assert (report["unlearned"]["interactions_erased"], report["unlearned"]["solver"]) == (0, None)


def refuse(root: Path, error: type[IfruError], expected: str, **changes: Any) -> None:
    before = Workspace(root).versions()
    with pytest.raises(error, match=expected):
        train(TrainConfig(**{"workspace": root, "workers": 0} | changes))
    assert Workspace(root).versions() == before


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    root, file = tmp_path / "ws", model_file(tmp_path / "model.npz")
    small_workspace(root)
    run(root, whole_user(BUSY))
    refuse(root, ConfigError, "add --from FILE", trained_on=1)
    refuse(root, ConfigError, "leave one out", trained_on=1, from_file=file, without_erased=True)
    refuse(root, WorkspaceError, "has no version 9", trained_on=9, from_file=file)
    refuse(root, ConfigError, "--trained-on", from_file=file)
    np.savez(tmp_path / "few.npz", user=EMBEDDINGS[:2], item=EMBEDDINGS[:1], user_ids=[100, 107], item_ids=["00000"])
    refuse(root, InputError, "lacks", trained_on=1, from_file=tmp_path / "few.npz")
    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    refuse(root, WorkspaceError, "was vacuumed", trained_on=1, from_file=file)


@pytest.mark.slow
@pytest.mark.usefixtures("on_local_ray")
def test_workers_on_ray_give_the_same_bits(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    small_workspace(root)
    run(root, *BATCH)
    copy(root, tmp_path / "other")
    one, two = adopted(root, 1), adopted(tmp_path / "other", 1, workers=2)
    assert one.embeddings().tobytes() == two.embeddings().tobytes()
