"""The ways in which a new version follows an old one: a model is made or restored, a batch erased, files vacuumed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.appending import brought_up
from ifru_dist.workspace.dense import write_dense
from ifru_dist.workspace.files import FileEntry, Staging, write_table
from ifru_dist.workspace.folding import appended, fold_deltas, fold_rows
from ifru_dist.workspace.layout import HELD_OUT, Layout
from ifru_dist.workspace.ledger import LedgerEntry, Scope, write_requests
from ifru_dist.workspace.manifest import Calibration, Manifest, ModelRecord
from ifru_dist.workspace.store import utc_now
from ifru_dist.workspace.suppression import Release, write_release, write_suppression
from ifru_dist.workspace.tables import write_base, write_delta
from ifru_dist.workspace.version import Version


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A model to make current."""

    spec: ModelSpec
    source: str
    options: dict[str, object]
    seed: int
    parameters: Parameters
    """Embeddings (N, width) in global row order, and the model's own parameters."""
    epochs: int | None = None
    """Epochs of training to these parameters, where it was done here."""
    epoch_examples: int | None = None
    """Examples of each."""


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
    unsolved_interactions: float = 0.0
    """A score of what the batch left: influence residual times interactions."""
    forgotten: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Global rows whose ids and held-out pairs go, ascending; their reset embeddings are among ``values``."""
    held_out: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Part -> positions in its stored file of the held-out pairs that go by themselves."""
    dense: Mapping[str, NDArray[np.float32]] | None = None
    """All of the model's own parameters as they are now; None where they are as before."""


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What becomes of an older version's model before it is current again."""

    rows: NDArray[np.int64]
    """Global rows that change, ascending."""
    values: NDArray[np.float32]
    """Their new embeddings (rows, dim)."""
    dense: Mapping[str, NDArray[np.float32]] | None
    """All of the model's own parameters as they are then; None where they are as in the older version."""
    unsolved_interactions: float
    """A score of what unlearning left: influence residual times interactions."""
    summary: dict[str, object]
    """Counts for the manifest."""


def commit_model(version: Version, model: NewModel) -> Manifest:
    """Commit a model on the data of a version. The caller holds the lock."""
    record = written_model(version, model, version.manifest.version + 1)
    return _commit(version, kind="train", model=record, extra={"source": model.source})


def written_model(version: Version, model: NewModel, trained_version: int) -> ModelRecord:
    """Write the files of a model that was trained on the data of a version; no version lists them yet.

    Args:
        version: What it was trained on.
        model: The model, in the rows of this version.
        trained_version: The version that will hold it first.
    """
    workspace = version.workspace
    return ModelRecord(
        spec=model.spec,
        source=model.source,
        options=model.options,
        seed=model.seed,
        epochs=model.epochs,
        epoch_examples=model.epoch_examples,
        trained_version=trained_version,
        trained_interactions=version.manifest.n_examples - version.manifest.n_erased,
        base=write_base(workspace.root, version.layout, model.parameters.embeddings),
        dense=write_dense(workspace.root, model.parameters.dense),
    )


def commit_calibration(version: Version, calibration: Calibration) -> Manifest:
    """Commit the damping that was found for the model; nothing else changes. The caller holds the lock."""
    found = {"damping": calibration.damping, "temperature": calibration.temperature}
    summary: dict[str, object] = {**found, "gap": calibration.gap}
    return _commit(version, kind="calibrate", model=replace(version.model, calibration=calibration), extra=summary)


def commit_erasure(version: Version, erasure: Erasure) -> Manifest:
    """Commit examples, graph, tables, ids, held-out pairs and requests of a batch together. The caller holds the lock.

    What a batch does not erase costs no file.
    """
    old = version.manifest
    with Staging(version.workspace.root) as staging:
        changes = _erased(staging, version, erasure)
    return _commit(
        version, kind="unlearn", n_erased=old.n_erased + len(erasure.examples), extra=erasure.summary, **changes
    )


def _erased(staging: Staging, version: Version, erasure: Erasure) -> dict[str, Any]:
    """Write what a batch changes; returns the manifest's lists with it."""
    old, layout = version.manifest, version.layout
    new = {
        "tombstones": _write_tombstones(staging, erasure.examples),
        "forgotten": _write_forgotten(staging, layout, erasure.forgotten),
        "held_out_erased": _write_held_out(staging, erasure.held_out),
        "requests": [write_requests(staging, erasure.requests, old.version + 1)],
        "suppression": _write_suppressed(staging, erasure.suppressed, old.version + 1),
    }
    lists = {name: appended(staging, getattr(old, name), entries, fold_rows) for name, entries in new.items()}
    return {**lists, "model": _changed_model(staging, version, erasure)}


def commit_restoration(version: Version, older: Version, restoration: Restoration) -> Manifest:
    """Commit an older version's model, changed, on the data of a version. The caller holds the lock."""
    return _commit(version, kind="restore", model=_caught_up(version, older, restoration), extra=restoration.summary)


def commit_adoption(version: Version, older: Version, restoration: Restoration) -> Manifest:
    """Commit a model that was trained elsewhere on the data of an older version. The caller holds the lock.

    Args:
        version: The current version.
        older: The older version with that model in the place of its own.
        restoration: What unlearning changed of it.
    """
    return _commit(version, kind="train", model=_caught_up(version, older, restoration), extra=restoration.summary)


def _caught_up(version: Version, older: Version, restoration: Restoration) -> ModelRecord:
    """An older version's model, changed, with rows for what was appended since, of which it knows nothing."""
    root = version.workspace.root
    if older.layout == version.layout:
        with Staging(root) as staging:
            model = _changed_model(staging, older, restoration)
    else:
        with Staging(root) as staging:
            embeddings = older.embeddings()
            embeddings[restoration.rows] = restoration.values
            base = brought_up(staging, older, version, embeddings)
            nothing = replace(restoration, rows=restoration.rows[:0], values=restoration.values[:0])
            model = replace(_changed_model(staging, older, nothing), base=base, deltas=())
    knows_all = older.trained_bound == version.manifest.n_examples and older.layout == version.layout
    return model if knows_all else replace(model, **older.trained_on)


def commit_append(version: Version, appended_data: Mapping[str, Any], summary: dict[str, object]) -> Manifest:
    """Commit data with further examples (``appending``): a new epoch. The caller holds the lock."""
    epoch = version.manifest.epoch + 1
    return _commit(version, kind="append", epoch=epoch, extra=summary, **appended_data)


def commit_release(version: Version, digest: bytes, scope: Scope, reason: str) -> Manifest:
    """Commit that the suppression list holds something no more; nothing else changes. The caller holds the lock."""
    old = version.manifest
    with Staging(version.workspace.root) as staging:
        entry = write_release(staging, Release(digest=digest, reason=reason, version=old.version + 1))
        released = appended(staging, old.released, [entry], fold_rows)
    return _commit(version, kind="release", released=released, extra={"scope": scope})


def commit_vacuum(version: Version, rewritten: Mapping[str, Any], retained_from: int) -> Manifest:
    """Commit a compaction, where there was one, and from which version on files are kept. The caller holds the lock.

    Only once this is durable may files be deleted: whoever goes on after a crash knows what was to go.
    """
    kind = "compact" if rewritten else "vacuum"
    return _commit(version, kind=kind, retained_from=retained_from, extra={"retained_from": retained_from}, **rewritten)


def _changed_model(staging: Staging, version: Version, change: Erasure | Restoration) -> ModelRecord:
    """A version's model with what unlearning changed of it."""
    model, layout = version.model, version.layout
    deltas = [write_delta(staging, layout, change.rows, change.values)] if len(change.rows) else []
    return replace(
        model,
        deltas=appended(staging, model.deltas, deltas, fold_deltas(layout)),
        dense=model.dense if change.dense is None else write_dense(staging, change.dense),
        unsolved_interactions=model.unsolved_interactions + change.unsolved_interactions,
    )


def _write_suppressed(staging: Staging, digests: list[bytes], version: int) -> list[FileEntry]:
    """The digests of what a batch erased, as a file where there are any."""
    return [write_suppression(staging, digests, version)] if digests else []


def _write_tombstones(staging: Staging, examples: NDArray[np.int64]) -> list[FileEntry]:
    """The ids of a batch's examples, as a file where there are any."""
    return [write_table(staging, "examples/erased", {"example": examples})] if len(examples) else []


def _write_forgotten(staging: Staging, layout: Layout, rows: NDArray[np.int64]) -> list[FileEntry]:
    """The forgotten rows of a batch, as a file where there are any. It holds no id."""
    columns = {"table": layout.table_of(rows).astype(np.int8), "row": layout.local(rows)}
    return [write_table(staging, "ids/forgotten", columns)] if len(rows) else []


def _write_held_out(staging: Staging, positions: Mapping[str, NDArray[np.int64]]) -> list[FileEntry]:
    """The held-out pairs that a batch erases by themselves, as a file where there are any."""
    parts = [positions.get(part, np.empty(0, np.int64)) for part in HELD_OUT]
    index = np.repeat(np.arange(len(HELD_OUT), dtype=np.int8), [len(part) for part in parts])
    columns = {"part": index, "position": np.concatenate(parts)}
    return [write_table(staging, "split/erased", columns)] if len(index) else []


def _commit(version: Version, kind: str, **changes: object) -> Manifest:
    """Commit the successor of a version."""
    digest = version.workspace.digest(version.manifest.version)
    manifest = version.manifest.successor(parent_digest=digest, kind=kind, created=utc_now(), **changes)
    version.workspace.commit(manifest)
    return manifest
