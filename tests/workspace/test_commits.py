import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ifru_dist.errors import VersionConflictError
from ifru_dist.workspace.commits import commit_calibration, commit_erasure, commit_model
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import LedgerEntry, read_ledger
from ifru_dist.workspace.manifest import Calibration
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, new_model, random_dataset, random_embeddings, trained_workspace

_DATASET = random_dataset(5)
_EMBEDDINGS = random_embeddings(5, 22)
_KEY = bytes(32)


@pytest.fixture
def trained(tmp_path: Path) -> Version:
    return trained_workspace(Workspace(tmp_path / "ws"), _DATASET, _EMBEDDINGS)


def test_a_model_is_a_new_version_on_the_same_data(trained: Version) -> None:
    manifest = trained.manifest
    assert (manifest.version, manifest.kind, manifest.extra) == (2, "train", {"source": "trained"})
    assert (trained.model.trained_version, trained.model.seed, trained.model.options) == (2, 7, {"epochs": 3})
    np.testing.assert_array_equal(trained.embeddings(), _EMBEDDINGS)
    assert open_version(trained.workspace, 1).manifest.model is None


def test_erasing_changes_examples_graph_and_tables_together(trained: Version) -> None:
    values = random_embeddings(6, 2)
    commit_erasure(trained, erasure([3, 7], [1, 20], values, summary={"note": 1}))
    version = open_version(trained.workspace, check_content=True)
    expected = _EMBEDDINGS.copy()
    expected[[1, 20]] = values
    np.testing.assert_array_equal(version.embeddings(), expected)
    left = np.setdiff1d(np.arange(60), [3, 7])
    assert version.erased_ids().tolist() == [3, 7]
    np.testing.assert_array_equal(version.train().rows, _DATASET.train.rows[left])
    np.testing.assert_array_equal(version.all_examples().rows, _DATASET.train.rows)
    assert sorted(version.mapped_incidence(range(5)).whole().example.tolist()) == sorted(left.tolist() * 2)
    assert (version.manifest.n_erased, version.manifest.extra) == (2, {"note": 1})


def test_batches_follow_each_other_and_old_versions_stay_as_they_were(trained: Version) -> None:
    expected = _EMBEDDINGS.copy()
    for batch in range(3):
        values = random_embeddings(batch, 2)
        commit_erasure(open_version(trained.workspace), erasure([batch * 2, batch * 2 + 1], [batch, batch + 1], values))
        expected[[batch, batch + 1]] = values
    version = open_version(trained.workspace, check_content=True)
    np.testing.assert_array_equal(version.embeddings(), expected)
    assert version.erased_ids().tolist() == [0, 1, 2, 3, 4, 5]
    assert version.manifest.n_erased == 6
    assert version.original().manifest.version == 2
    np.testing.assert_array_equal(version.original().embeddings(), _EMBEDDINGS)
    assert version.original().alive().all()


def test_a_calibration_and_what_stays_unsolved_belong_to_the_model(trained: Version) -> None:
    found = Calibration(damping=0.2, gap=0.1, gap_do_nothing=1.0, interactions=5, seed=0, version=2, solver={})
    manifest = commit_calibration(trained, found)
    assert (manifest.version, manifest.kind, manifest.model.calibration) == (3, "calibrate", found)
    assert manifest.files() == trained.manifest.files()
    for batch, unsolved in enumerate((0.5, 0.25)):
        version = open_version(trained.workspace)
        commit_erasure(version, erasure([batch], [batch], random_embeddings(0, 1), unsolved_interactions=unsolved))
    version = open_version(trained.workspace)
    assert (version.model.calibration, version.model.unsolved_interactions) == (found, 0.75)
    assert version.trained_interactions == version.model.trained_interactions == 60
    commit_model(version, new_model(_EMBEDDINGS))
    model = open_version(trained.workspace).model
    assert (model.calibration, model.unsolved_interactions, model.trained_interactions) == (None, 0.0, 58)


def test_every_manifest_holds_the_digest_of_the_one_before(trained: Version) -> None:
    commit_erasure(trained, erasure([0], [], random_embeddings(0, 0)))
    workspace = trained.workspace
    for number in (2, 3):
        before = workspace.manifest_path(number - 1).read_bytes()
        assert workspace.manifest(number).parent == hashlib.sha256(before).hexdigest()


def test_requests_and_digests_are_kept_over_versions(trained: Version) -> None:
    digests = [keyed_digest(_KEY, "user", name, None) for name in "ab"]
    for number, digest in enumerate(digests):
        entry = LedgerEntry(request_id=f"r{number}", scope="user", digest=digest, status="applied", interactions=1)
        batch = erasure([number], [number], random_embeddings(0, 1), requests=[entry], suppressed=[digest])
        commit_erasure(open_version(trained.workspace), batch)
    manifest = trained.workspace.manifest()
    ledger = read_ledger(trained.workspace.root, manifest.requests, manifest.suppression)
    assert ledger.requests == {("r0", digests[0]): 3, ("r1", digests[1]): 4}
    assert ledger.suppressed == set(digests)


def test_of_two_writers_on_one_version_the_second_loses_and_changes_nothing(trained: Version) -> None:
    commit_erasure(trained, erasure([1], [0], random_embeddings(1, 1)))
    with pytest.raises(VersionConflictError, match=r"version 3 of .* was committed by another job"):
        commit_model(trained, new_model(random_embeddings(2, 22)))
    version = open_version(trained.workspace, check_content=True)
    assert (version.manifest.version, version.manifest.kind) == (3, "unlearn")


def test_every_file_is_durable_before_it_has_its_name_and_every_name_before_the_manifest(
    trained: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []

    def recorded(name: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> object:
            result = real(*arguments)
            done.append((name, path_of(*arguments)))
            return result

        monkeypatch.setattr(os, name, call)

    recorded("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    recorded("rename", lambda source, _: str(source))
    recorded("link", lambda source, _: str(source))
    gone = {"forgotten": np.array([0]), "held_out": {"valid": np.array([1])}}
    commit_erasure(trained, erasure([2, 4], [0, 20], random_embeddings(1, 2), suppressed=[bytes(32)], **gone))
    done.clear()  # the first batch makes folders, too
    gone = {"forgotten": np.array([1]), "held_out": {"valid": np.array([2])}}
    commit_erasure(
        open_version(trained.workspace), erasure([5], [1, 20], random_embeddings(2, 2), suppressed=[bytes(32)], **gone)
    )
    at = {call: position for position, call in enumerate(done)}
    assert len(at) == len(done)  # nothing twice: each file, and each folder, is synced once
    renamed = [path for name, path in done if name == "rename"]
    (linked,) = (path for name, path in done if name == "link")
    assert len(renamed) == 6
    for path in renamed:
        folder = str(Path(path).parent)
        assert at["fsync", path] < at["rename", path] < at["fsync", folder] < at["link", linked]
    assert at["fsync", linked] < at["link", linked] < at["fsync", str(trained.workspace.versions_folder)]


@pytest.mark.parametrize(("forgets", "files"), [(False, 4), (True, 6)])
def test_erasing_costs_a_few_small_files_whatever_the_size_of_the_tables(
    tmp_path: Path, forgets: bool, files: int
) -> None:
    sizes = []
    for n_items in (50, 5_000):
        workspace = Workspace(tmp_path / str(n_items))
        embeddings = random_embeddings(1, 40 + n_items)
        version = trained_workspace(workspace, random_dataset(1, (40, n_items), 500), embeddings)
        before = {path for path in workspace.root.rglob("*.arrow")}
        gone = {"forgotten": np.array([0]), "held_out": {"valid": np.array([1])}} if forgets else {}
        commit_erasure(version, erasure([2, 4], [0, 41], embeddings[:2], suppressed=[bytes(32)], **gone))
        sizes.append([path.stat().st_size for path in sorted({*workspace.root.rglob("*.arrow")} - before)])
    assert len(sizes[0]) == files
    assert sorted(sizes[0]) == sorted(sizes[1])
