"""The manifest of a version: what it consists of, with the checksum of every file and of the manifest before."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ifru_dist.errors import WorkspaceError
from ifru_dist.models.spec import KNOWN_FIELDS_ONLY, ModelSpec
from ifru_dist.workspace.files import FileEntry
from ifru_dist.workspace.layout import Layout

FORMAT = 1
_REMEDY = "restore it from a backup, or use the release that wrote it"
_LONGEST_SHOWN = 80
"""Characters of a wrong value that a message shows at most."""

Count = Annotated[int, Field(ge=0, le=2**53)]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The damping that came closest to one retraining, and how that was found."""

    __pydantic_config__ = KNOWN_FIELDS_ONLY
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

    __pydantic_config__ = KNOWN_FIELDS_ONLY
    spec: ModelSpec
    source: str
    """``trained`` by this package or ``imported``."""
    options: dict[str, Any]
    """Training options, to train references in the same way."""
    seed: int
    """Seed of the initialisation, also of rows that are reset."""
    trained_version: Annotated[int, Field(ge=1)]
    """The version that training made: the original model, before any unlearning."""
    base: tuple[FileEntry, ...]
    """One file per table."""
    deltas: tuple[FileEntry, ...] = ()
    """Changed rows, oldest first."""
    epochs: Count | None = None
    """Epochs of training to these embeddings; None for imported models and in manifests of earlier releases."""
    epoch_examples: Count | None = None
    """Examples of an epoch: with bpr the positives only; None where ``epochs`` is."""
    dense: FileEntry | None = None
    """The model's own parameters, where it has any."""
    trained_interactions: Count | None = None
    """Training interactions when the model was made; None in manifests of earlier releases."""
    trained_examples: Count | None = None
    """Ids of examples that had been given out when the model was trained: it knows nothing of those from here on, which
    were appended later. None: all."""
    trained_sizes: tuple[Count, ...] | None = None
    """Rows that each table had then. None: all."""
    unsolved_interactions: Annotated[float, Field(ge=0)] = 0.0
    """A score of what batches left: the sum over them of influence residual times interactions."""
    calibration: Calibration | None = None

    def files(self) -> list[FileEntry]:
        """Every file of the model."""
        return [*self.base, *self.deltas, *([self.dense] if self.dense else [])]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An immutable version of a workspace."""

    __pydantic_config__ = KNOWN_FIELDS_ONLY
    version: Annotated[int, Field(ge=1, le=2**53)]
    parent: str | None
    """SHA-256 of the manifest before; None in the first version."""
    kind: str
    """What made the version: preprocess, append, train, calibrate, unlearn, release, compact, vacuum or restore."""
    created: str
    """UTC time, ISO 8601."""
    key_fingerprint: str | None
    """By which the workspace knows the key of its audit digests."""
    epoch: Count
    """Data epoch: grows when interactions are added, not when they are erased."""
    layout: Layout
    ids: tuple[FileEntry, ...]
    """External ids in row order, one file per table."""
    examples: FileEntry
    n_examples: Count
    """Ids of examples that were given out; the examples file lacks those that compaction took away."""
    graph: tuple[FileEntry, ...]
    """Incidence CSR by row, one file per table."""
    degrees: tuple[FileEntry, ...]
    """Examples of each row in the graph file, one file per table."""
    valid: FileEntry
    test: FileEntry
    tombstones: tuple[FileEntry, ...] = ()
    """Ids of erased examples that the examples file still holds."""
    n_erased: Count = 0
    forgotten: tuple[FileEntry, ...] = ()
    """Rows whose ids and held-out pairs are gone, but still stand in the files."""
    held_out_erased: tuple[FileEntry, ...] = ()
    """Positions of held-out pairs that were erased by themselves, but still stand in the files."""
    model: ModelRecord | None = None
    requests: tuple[FileEntry, ...] = ()
    suppression: tuple[FileEntry, ...] = ()
    released: tuple[FileEntry, ...] = ()
    """What of the suppression list counts no more; in manifests of earlier releases there is none."""
    retained_from: Annotated[int, Field(ge=1)] = 1
    """The oldest version whose files are kept: of those before only the manifests are left."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Counts of the job that made the version, for people."""

    def files(self) -> list[FileEntry]:
        """Every file of the version."""
        model = self.model.files() if self.model else []
        data = (*self.ids, self.examples, *self.graph, *self.degrees, self.valid, self.test)
        erased = (*self.tombstones, *self.forgotten, *self.held_out_erased)
        return [*data, *erased, *model, *self.requests, *self.suppression, *self.released]

    def successor(self, *, parent_digest: str, kind: str, created: str, **changes: Any) -> "Manifest":
        """The next version: this one with changes."""
        return replace(self, version=self.version + 1, parent=parent_digest, kind=kind, created=created, **changes)


_ADAPTER = TypeAdapter(Manifest)


def encode(manifest: Manifest) -> bytes:
    """The manifest as the bytes of its file, a line for each field; the first line's digest covers the rest."""
    layout = _members(manifest.layout)
    value = {"format": FORMAT, **_members(manifest), "layout": layout, "tables": layout.pop("tables")}
    # Not indented further: Python's encoder is several times slower where it indents.
    lines = [f'"{name}": {json.dumps(value[name], sort_keys=True, default=_members)}' for name in sorted(value)]
    body = "{\n" + ",\n".join(lines) + "\n}"
    return json.dumps({"sha256": _digest(body)}).encode() + b"\n" + body.encode() + b"\n"


def decode(data: bytes, name: str) -> Manifest:
    """The manifest that ``encode`` wrote.

    Raises:
        WorkspaceError: the bytes are torn or altered, of another format, or hold values that no version can have.
    """
    try:
        head, body = data.decode().split("\n", 1)
        body = body.rstrip("\n")
        whole = json.loads(head)["sha256"] == _digest(body)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise WorkspaceError(f"{name} is damaged: its checksum does not match: restore it from a backup")
    try:
        value = json.loads(body)
        if value["format"] != FORMAT:
            raise WorkspaceError(
                f"{name} has format {value['format']}; this program reads {FORMAT}: use a matching release"
            )
        return _manifest(value)
    except ValidationError as error:
        raise WorkspaceError(f"{name} cannot be used ({_problem(error)}): {_REMEDY}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # no object, or one without what all have
        raise WorkspaceError(f"{name} is no manifest ({type(error).__name__}: {error}): {_REMEDY}") from None


def _members(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as they are: nothing is copied."""
    return {member.name: getattr(value, member.name) for member in fields(value)}


def _digest(body: str) -> str:
    """SHA-256 of the manifest's text."""
    return hashlib.sha256(body.encode()).hexdigest()


def _manifest(value: dict[str, Any]) -> Manifest:
    """The dataclass from its JSON object; every value is checked, and what earlier releases lack has its default."""
    fields = {key: item for key, item in value.items() if key not in ("format", "tables")}
    fields["layout"] = {**fields["layout"], "tables": value["tables"]}
    return _ADAPTER.validate_json(json.dumps(fields), strict=True)


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong with a manifest, where it stands, and how many there are."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{place} = {str(first['input'])[:_LONGEST_SHOWN]!r}: {first['msg']}{more}"
