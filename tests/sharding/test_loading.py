"""What workers hold of a version whose model draws negatives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ifru_dist.influence.shard import EdgeRun, Shard
from ifru_dist.models.factory import build_model
from ifru_dist.sharding.loading import load_shard
from ifru_dist.workspace.version import Version
from tests.pipelines.small import SIZES, erase, small_workspace, whole_item

NEGATIVES = 3


def pairwise(version: Version) -> Version:
    """The version as if its model had been trained in pairs."""
    spec = replace(version.model.spec, loss="bpr", negatives=NEGATIVES)
    return replace(version, manifest=replace(version.manifest, model=replace(version.model, spec=spec)))


def shard_of(version: Version, partitions: list[int]) -> Shard:
    model = build_model(version.model.spec)
    embeddings = torch.from_numpy(version.embeddings_of(partitions)).double()
    cpu = torch.device("cpu")
    return load_shard(version, version.mapped_incidence(partitions), embeddings, model, cpu, holds_dense=False)


def edges_of(shard: Shard) -> EdgeRun:
    return shard.edges.of(torch.arange(len(shard.rows)))


def test_every_positive_is_held_with_its_negatives_at_each_of_its_rows(tmp_path: Path) -> None:
    version = pairwise(small_workspace(tmp_path / "ws"))
    shard = shard_of(version, list(range(version.layout.partitions)))
    data = version.train()
    positives = int((data.labels > 0.5).sum())
    run = edges_of(shard)
    assert run.place is not None
    assert run.weight is not None
    assert torch.bincount(run.place).tolist() == [NEGATIVES * positives] * 3
    assert float(run.weight.sum()) == np.float32(1 / NEGATIVES) * 3 * NEGATIVES * positives
    near = torch.repeat_interleave(shard.rows, shard.degrees)
    known = set(map(tuple, data.positives().tolist()))
    edges = zip(near.tolist(), run.place.tolist(), run.others.tolist(), run.example.tolist(), strict=True)
    for row, place, others, example in edges:
        triple = [*others[:place], row, *others[place:]]
        assert triple[:2] == data.rows[example].tolist()
        assert triple[2] >= SIZES[0]
        assert (triple[0], triple[2]) not in known


def test_a_worker_without_any_tuple_holds_its_rows_all_the_same(tmp_path: Path) -> None:
    version = pairwise(small_workspace(tmp_path / "ws"))
    shards = [shard_of(version, [partition]) for partition in range(version.layout.partitions)]
    assert sum(len(shard.rows) for shard in shards) == sum(SIZES)
    empty = shard_of(version, [])
    assert edges_of(empty).others.shape == (0, 2)
    assert len(empty.rows) == 0


def test_forgotten_items_are_nobodys_negatives(tmp_path: Path) -> None:
    small_workspace(tmp_path / "ws")
    forgotten = [SIZES[0] + number for number in range(3)]
    version = pairwise(erase(tmp_path / "ws", *map(whole_item, range(3))))
    assert version.forgotten_rows().tolist() == forgotten
    shard = shard_of(version, list(range(version.layout.partitions)))
    assert not np.isin(edges_of(shard).others.numpy(), forgotten).any()
