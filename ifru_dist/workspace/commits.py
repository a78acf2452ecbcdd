"""The two ways in which a new version follows an old one: a model is trained or imported, a batch is erased."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.files import write_table
from ifru_dist.workspace.ledger import LedgerEntry, write_requests, write_suppression
from ifru_dist.workspace.manifest import Manifest, ModelRecord
from ifru_dist.workspace.store import utc_now
from ifru_dist.workspace.tables import write_base, write_delta
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A model to make current."""

    spec: ModelSpec
    source: str
    options: dict[str, object]
    seed: int
    embeddings: NDArray[np.float32]
    """(N, dim) in global row order."""


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """A solved batch to make current."""

    examples: NDArray[np.int64]
    """Ids of the erased examples, ascending."""
    rows: NDArray[np.int64]
    """Global rows that changed, ascending."""
    values: NDArray[np.float32]
    """Their new embeddings (rows, dim)."""
    requests: list[LedgerEntry]
    suppressed: list[bytes]
    summary: dict[str, object]
    """Counts for the manifest."""


def commit_model(version: Version, model: NewModel) -> Manifest:
    """Commit a model on the data of a version. The caller holds the lock."""
    workspace = version.workspace
    record = ModelRecord(
        spec=model.spec,
        source=model.source,
        options=model.options,
        seed=model.seed,
        trained_version=version.manifest.version + 1,
        base=write_base(workspace.root, version.layout, model.embeddings),
    )
    return _commit(version, kind="train", model=record, extra={"source": model.source})


def commit_erasure(version: Version, erasure: Erasure) -> Manifest:
    """Commit examples, graph, tables and requests of a batch together. The caller holds the lock."""
    root, old = version.workspace.root, version.manifest
    tombstones = write_table(root, "examples/erased", {"example": erasure.examples})
    delta = write_delta(root, version.layout, erasure.rows, erasure.values)
    requests = write_requests(root, erasure.requests, old.version + 1)
    suppression = write_suppression(root, erasure.suppressed)
    return _commit(
        version,
        kind="unlearn",
        tombstones=(*old.tombstones, tombstones),
        n_erased=old.n_erased + len(erasure.examples),
        model=replace(version.model, deltas=(*version.model.deltas, delta)),
        requests=(*old.requests, requests),
        suppression=(*old.suppression, suppression),
        extra=erasure.summary,
    )


def _commit(version: Version, kind: str, **changes: object) -> Manifest:
    """Commit the successor of a version."""
    digest = version.workspace.digest(version.manifest.version)
    manifest = version.manifest.successor(parent_digest=digest, kind=kind, created=utc_now(), **changes)
    version.workspace.commit(manifest)
    return manifest
