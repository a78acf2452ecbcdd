from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.commits import commit_erasure
from ifru_dist.workspace.files import FileEntry, write_table
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.shapes import check_shapes
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.tables import write_delta
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A version with a file of every kind but dense parameters."""
    folder = tmp_path_factory.mktemp("shapes")
    made = trained_workspace(Workspace(folder / "ws"), random_dataset(1), random_embeddings(1, 22))
    batch = erasure(
        [3, 5],
        [0, 13],
        random_embeddings(0, 2),
        forgotten=np.array([0], np.int64),
        held_out={"test": np.array([2], np.int64)},
        suppressed=[bytes(32)],
    )
    commit_erasure(made, batch)
    return open_version(made.workspace, check_content=True)


def _written(version: Version, **columns: pa.Array) -> FileEntry:
    return write_table(version.workspace.root, "other/file", columns)


def _ids_of_too_few_rows(version: Version) -> Manifest:
    ids = (_written(version, id=pa.array([1, 2])), version.manifest.ids[1])
    return replace(version.manifest, ids=ids)


def _ids_of_another_type(version: Version) -> Manifest:
    ids = (_written(version, id=pa.array(np.zeros(13))), version.manifest.ids[1])
    return replace(version.manifest, ids=ids)


def _ids_swapped(version: Version) -> Manifest:
    return replace(version.manifest, ids=version.manifest.ids[::-1])


def _ids_of_one_table(version: Version) -> Manifest:
    return replace(version.manifest, ids=version.manifest.ids[:1])


def _absurdly_many_examples(version: Version) -> Manifest:
    return replace(version.manifest, n_examples=2**53)


def _absurdly_many_examples_of_which_nearly_all_are_gone(version: Version) -> Manifest:
    return replace(version.manifest, n_examples=2**52, n_erased=2**52 - 60 + 2)


def _examples_without_a_column(version: Version) -> Manifest:
    return replace(version.manifest, examples=version.manifest.test)


def _held_out_pairs_that_are_degrees(version: Version) -> Manifest:
    return replace(version.manifest, valid=version.manifest.degrees[0])


def _other_sizes(version: Version) -> Manifest:
    return replace(version.manifest, layout=replace(version.layout, sizes=(2**31 - 1, 2**31 - 1)))


def _other_partitions(version: Version) -> Manifest:
    return replace(version.manifest, layout=replace(version.layout, partitions=65_536))


def _graph_and_degrees_exchanged(version: Version) -> Manifest:
    return replace(version.manifest, graph=version.manifest.degrees, degrees=version.manifest.graph)


def _model_without_a_table(version: Version) -> Manifest:
    return replace(version.manifest, model=replace(version.model, base=version.model.base[:1]))


def _a_table_that_is_no_table(version: Version) -> Manifest:
    return replace(version.manifest, model=replace(version.model, base=version.manifest.graph))


def _a_delta_of_another_width(version: Version) -> Manifest:
    delta = write_delta(version.workspace.root, version.layout, np.array([1]), random_embeddings(0, 1, dim=7))
    return replace(version.manifest, model=replace(version.model, deltas=(delta,)))


def _erased_examples_of_another_type(version: Version) -> Manifest:
    return replace(version.manifest, tombstones=(_written(version, example=pa.array(["3"])),))


def _more_erased_than_there_are(version: Version) -> Manifest:
    return replace(version.manifest, tombstones=(_written(version, example=pa.array(np.zeros(61, np.int64))),))


def _digests_of_another_length(version: Version) -> Manifest:
    return replace(version.manifest, suppression=(_written(version, digest=pa.array([b"1"], pa.binary(1))),))


def _requests_that_are_digests(version: Version) -> Manifest:
    return replace(version.manifest, requests=version.manifest.suppression)


_ALTERED: list[Callable[[Version], Manifest]] = [
    _ids_of_too_few_rows,
    _ids_of_another_type,
    _ids_swapped,
    _ids_of_one_table,
    _absurdly_many_examples,
    _absurdly_many_examples_of_which_nearly_all_are_gone,
    _examples_without_a_column,
    _held_out_pairs_that_are_degrees,
    _other_sizes,
    _other_partitions,
    _graph_and_degrees_exchanged,
    _model_without_a_table,
    _a_table_that_is_no_table,
    _a_delta_of_another_width,
    _erased_examples_of_another_type,
    _more_erased_than_there_are,
    _digests_of_another_length,
    _requests_that_are_digests,
]


@pytest.mark.parametrize("altered", _ALTERED, ids=lambda altered: altered.__name__.strip("_"))
def test_a_manifest_that_its_files_do_not_fit_is_refused_before_anything_is_read(
    version: Version, altered: Callable[[Version], Manifest]
) -> None:
    manifest = altered(version)
    assert manifest != version.manifest
    with pytest.raises(WorkspaceError, match=r"version 3.*: restore the file from a backup"):
        check_shapes(version.workspace.root, manifest)


def test_versions_as_they_are_written_fit(version: Version) -> None:
    for number in (1, 2, 3):
        check_shapes(version.workspace.root, version.workspace.manifest(number))


def test_a_workspace_with_further_fields_and_empty_parts_fits(tmp_path: Path) -> None:
    made = trained_workspace(
        Workspace(tmp_path / "ws"), random_dataset(2, (3, 2, 4), n_train=0, n_held_out=0), random_embeddings(1, 9), 3
    )
    check_shapes(made.workspace.root, made.manifest)
    assert made.layout == Layout(3, (3, 2, 4), ("user", "item", "hour"))
