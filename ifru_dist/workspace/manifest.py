"""The manifest of a version: what it consists of, with the checksum of every file and of the manifest before."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ifru_dist.errors import WorkspaceError
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.files import FileEntry, entry_from_json
from ifru_dist.workspace.layout import Layout

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The damping that came closest to one retraining, and how that was found."""

    damping: float
    """c of Lambda."""
    gap: float
    """Mean |score - retrained score| on the sample, unlearned with this damping."""
    gap_do_nothing: float
    """The same for the model that was calibrated, as it was."""
    interactions: int
    """Training interactions in the sample."""
    seed: int
    """Seed of the sample and of the retraining."""
    version: int
    """The version whose model was calibrated."""
    solver: dict[str, Any]
    """Solver options; with others the best damping may be another."""
    anchor: str = "degree"
    """What the damping is a factor of."""
    temperature: float = 1.0
    """Temperature of the loss that goes with it."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model of a version: what it is, how it came, and the files of its embedding rows."""

    spec: ModelSpec
    source: str
    """``trained`` by this package or ``imported``."""
    options: dict[str, Any]
    """Training options, to train references in the same way."""
    seed: int
    """Seed of the initialisation, also of rows that are reset."""
    trained_version: int
    """The version that training made: the original model, before any unlearning."""
    base: tuple[FileEntry, ...]
    """One file per table."""
    deltas: tuple[FileEntry, ...] = ()
    """Changed rows, oldest first."""
    epochs: int | None = None
    """Epochs of training to these embeddings; None for imported models and in manifests of earlier releases."""
    epoch_examples: int | None = None
    """Examples of an epoch: with bpr the positives only; None where ``epochs`` is."""
    dense: FileEntry | None = None
    """The model's own parameters, where it has any."""
    trained_interactions: int | None = None
    """Training interactions when the model was made; None in manifests of earlier releases."""
    unsolved_interactions: float = 0.0
    """A score of what batches left: the sum over them of influence residual times interactions."""
    calibration: Calibration | None = None

    def files(self) -> list[FileEntry]:
        """Every file of the model."""
        return [*self.base, *self.deltas, *([self.dense] if self.dense else [])]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An immutable version of a workspace."""

    version: int
    parent: str | None
    """SHA-256 of the manifest before; None in the first version."""
    kind: str
    """The job that made the version: preprocess, train, calibrate or unlearn."""
    created: str
    """UTC time, ISO 8601."""
    key_fingerprint: str | None
    """By which the workspace knows the key of its audit digests."""
    epoch: int
    """Data epoch: grows when interactions are added, not when they are erased."""
    layout: Layout
    ids: tuple[FileEntry, ...]
    """External ids in row order, one file per table."""
    examples: FileEntry
    n_examples: int
    """Examples in the base file, erased ones included."""
    graph: tuple[FileEntry, ...]
    """Incidence CSR by row, one file per table."""
    degrees: tuple[FileEntry, ...]
    """Examples of each row in the graph file, one file per table."""
    valid: FileEntry
    test: FileEntry
    tombstones: tuple[FileEntry, ...] = ()
    """Ids of erased examples, one file per version that erased some."""
    n_erased: int = 0
    forgotten: tuple[FileEntry, ...] = ()
    """Rows whose ids and held-out pairs are gone, one file per version that forgot some."""
    held_out_erased: tuple[FileEntry, ...] = ()
    """Positions of held-out pairs that were erased by themselves, one file per version that erased some."""
    model: ModelRecord | None = None
    requests: tuple[FileEntry, ...] = ()
    suppression: tuple[FileEntry, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Counts of the job that made the version, for people."""

    def files(self) -> list[FileEntry]:
        """Every file of the version."""
        model = self.model.files() if self.model else []
        data = (*self.ids, self.examples, *self.graph, *self.degrees, self.valid, self.test)
        erased = (*self.tombstones, *self.forgotten, *self.held_out_erased)
        return [*data, *erased, *model, *self.requests, *self.suppression]

    def successor(self, *, parent_digest: str, kind: str, created: str, **changes: Any) -> "Manifest":
        """The next version: this one with changes."""
        return replace(self, version=self.version + 1, parent=parent_digest, kind=kind, created=created, **changes)


def encode(manifest: Manifest) -> bytes:
    """The manifest as the bytes of its file; the first line's digest covers the rest."""
    value = asdict(manifest)
    value["tables"] = value["layout"].pop("tables")
    body = json.dumps({"format": FORMAT, **value}, indent=1, sort_keys=True)
    return json.dumps({"sha256": _digest(body)}).encode() + b"\n" + body.encode() + b"\n"


def decode(data: bytes, name: str) -> Manifest:
    """The manifest that ``encode`` wrote.

    Raises:
        WorkspaceError: the bytes are torn or altered, or of another format.
    """
    try:
        head, body = data.decode().split("\n", 1)
        body = body.rstrip("\n")
        whole = json.loads(head)["sha256"] == _digest(body)
    except (UnicodeDecodeError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise WorkspaceError(f"{name} is damaged: its checksum does not match: restore it from a backup")
    value = json.loads(body)
    if value["format"] != FORMAT:
        raise WorkspaceError(
            f"{name} has format {value['format']}; this program reads {FORMAT}: use a matching release"
        )
    return _manifest(value)


def _digest(body: str) -> str:
    """SHA-256 of the manifest's text."""
    return hashlib.sha256(body.encode()).hexdigest()


def _manifest(value: dict[str, Any]) -> Manifest:
    """The dataclass from its JSON object."""
    fields = {key: item for key, item in value.items() if key not in ("format", "tables")}
    for key in ("ids", "graph", "degrees", "tombstones", "requests", "suppression"):
        fields[key] = _entries(fields[key])
    for key in ("forgotten", "held_out_erased"):  # manifests of earlier releases have none
        fields[key] = _entries(fields.get(key, []))
    for key in ("examples", "valid", "test"):
        fields[key] = entry_from_json(fields[key])
    layout = fields.pop("layout")
    model = fields.pop("model")
    return Manifest(
        layout=Layout(layout["partitions"], sizes=tuple(layout["sizes"]), tables=tuple(value["tables"])),
        model=_model(model) if model else None,
        **fields,
    )


def _model(value: dict[str, Any]) -> ModelRecord:
    """The model record from its JSON object."""
    fields = dict(value)
    calibration, dense = fields.pop("calibration", None), fields.pop("dense", None)  # earlier releases have neither
    return ModelRecord(
        dense=entry_from_json(dense) if dense else None,
        calibration=Calibration(**calibration) if calibration else None,
        spec=ModelSpec(**fields.pop("spec")),
        base=_entries(fields.pop("base")),
        deltas=_entries(fields.pop("deltas")),
        **fields,
    )


def _entries(values: list[dict[str, Any]]) -> tuple[FileEntry, ...]:
    """File entries from their JSON objects."""
    return tuple(entry_from_json(value) for value in values)
