"""Do the files of a version hold what its manifest says, in kind and number? Seen before a column is read.

The checksum of a file says that its bytes are those that were listed, not that the manifest's numbers fit them. What
they do not fit would end in an array of an absurd size, or in rows of one table taken for those of another.
"""

from pathlib import Path

import pyarrow as pa

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.dense import DENSE
from ifru_dist.workspace.files import REMEDY, FileEntry, open_arrow
from ifru_dist.workspace.graph import DEGREES, edge_schema
from ifru_dist.workspace.keys import DIGEST_BYTES
from ifru_dist.workspace.layout import MAX_ROWS
from ifru_dist.workspace.manifest import Manifest, ModelRecord

_FORGOTTEN = {"table": pa.int8(), "row": pa.int64()}
_HELD_OUT = {"part": pa.int8(), "position": pa.int64()}
_REQUESTS = {
    "request_id": pa.string(),
    "scope": pa.string(),
    "digest": pa.binary(DIGEST_BYTES),
    "status": pa.string(),
    "interactions": pa.int64(),
    "reason": pa.string(),
    "version": pa.int64(),
}
_SUPPRESSION = {"digest": pa.binary(DIGEST_BYTES)}
_RELEASED = {**_SUPPRESSION, "reason": pa.string(), "version": pa.int64()}

_MOST_IDS = 2**30
_MOST_IDS_PER_EXAMPLE = 64
"""More ids than this, and more than that for each example that is stored, were never given out."""
_ANY = range(MAX_ROWS + 1)
"""Numbers of rows that a file may have where the manifest does not say how many."""


def check_shapes(root: Path, manifest: Manifest) -> None:
    """Compare columns, types and numbers of rows of every file of a version with its manifest.

    Raises:
        WorkspaceError: naming the first file that does not fit, what it holds, and the remedy.
    """
    _Shapes(root, manifest).check()


class _Shapes:
    """The checks of one version."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        """Name the version; nothing is opened yet."""
        self._root, self._manifest, self._layout = root, manifest, manifest.layout

    def check(self) -> None:
        """Check every file."""
        manifest = self._manifest
        self._check_ids(manifest.ids)
        self._check_interactions()
        self._check_graph()
        for entries, columns, rows in (
            (manifest.forgotten, _FORGOTTEN, range(self._layout.n_rows + 1)),
            (manifest.held_out_erased, _HELD_OUT, _ANY),
            (manifest.requests, _REQUESTS, _ANY),
            (manifest.suppression, _SUPPRESSION, _ANY),
            (manifest.released, _RELEASED, _ANY),
        ):
            for entry in entries:
                self._check(entry, columns, rows)
        if manifest.model is not None:
            self._check_model(manifest.model)

    def _check_ids(self, entries: tuple[FileEntry, ...]) -> None:
        """An id of each row."""
        for entry, size in zip(self._one_per_table("ids", entries), self._layout.sizes, strict=True):
            reader = self._open(entry)
            kind = _columns(reader.schema).get("id", pa.null())
            if not (pa.types.is_int64(kind) or pa.types.is_large_string(kind)):
                raise self._error(entry, f"ids of the type {kind}")
            self._check_rows(entry, reader, _exactly(size))

    def _check_interactions(self) -> None:
        """A row of each table and a label; examples behind their id, also those that were erased but not compacted."""
        manifest = self._manifest
        columns = {**dict.fromkeys(self._layout.tables, pa.int32()), "label": pa.int8()}
        ids = {"example": pa.int64()}
        tombstones = [self._check(entry, ids, range(manifest.n_examples + 1)) for entry in manifest.tombstones]
        stored = manifest.n_examples - manifest.n_erased + sum(reader.count_rows() for reader in tombstones)
        self._check(manifest.examples, ids | columns, _exactly(stored))
        if manifest.n_examples > max(_MOST_IDS, _MOST_IDS_PER_EXAMPLE * stored):  # masks over all ids are made
            raise self._error(manifest.examples, f"{stored} of {manifest.n_examples} examples")
        for entry in (manifest.valid, manifest.test):
            self._check(entry, columns, _ANY)

    def _check_graph(self) -> None:
        """Edges and degrees of each table, by partition."""
        manifest, edges = self._manifest, _columns(edge_schema(self._layout))
        for entry in self._one_per_table("graph", manifest.graph):
            self._check_partitioned(entry, edges, range(manifest.n_examples + 1))
        degrees = self._one_per_table("degrees", manifest.degrees)
        for entry, size in zip(degrees, self._layout.sizes, strict=True):
            self._check_partitioned(entry, _columns(DEGREES), _exactly(size))

    def _check_model(self, model: ModelRecord) -> None:
        """Embeddings of one width in all tables."""
        base = self._one_per_table("base", model.base)
        kind = _columns(self._open(base[0]).schema).get("embedding", pa.null())
        if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32() or kind.list_size < 1:
            raise self._error(base[0], f"embeddings of the type {kind}")
        for entry, size in zip(base, self._layout.sizes, strict=True):
            self._check_partitioned(entry, {"embedding": kind}, _exactly(size))
        sizes = model.trained_sizes or self._layout.sizes
        fits = [known <= size for known, size in zip(sizes, self._layout.sizes, strict=False)]
        if len(sizes) != len(fits) or not all(fits) or (model.trained_examples or 0) > self._manifest.n_examples:
            raise self._error(base[0], f"a model of {model.trained_examples} examples, and of tables of {sizes} rows")
        for entry in model.deltas:
            self._check(entry, {**_FORGOTTEN, "embedding": kind}, range(self._layout.n_rows + 1))
        if model.dense is not None:
            self._check(model.dense, _columns(DENSE), _ANY)

    def _one_per_table(self, name: str, entries: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        """The files, if there is one for each table."""
        tables = self._layout.tables
        if len(entries) != len(tables):
            raise WorkspaceError(
                f"version {self._manifest.version} of {self._root} lists {len(entries)} files of {name} for "
                f"{len(tables)} tables: {REMEDY}"
            )
        return entries

    def _check_partitioned(self, entry: FileEntry, columns: dict[str, pa.DataType], allowed: range) -> None:
        """A file with a record batch for each partition."""
        reader = self._check(entry, columns, allowed)
        if reader.num_record_batches != self._layout.partitions:
            raise self._error(entry, f"{reader.num_record_batches} parts, not {self._layout.partitions}")

    def _check(self, entry: FileEntry, columns: dict[str, pa.DataType], allowed: range) -> pa.ipc.RecordBatchFileReader:
        """A file with (at least) some columns, and a number of rows that fits."""
        reader = self._open(entry)
        seen = _columns(reader.schema)
        if len(seen) != len(reader.schema) or {name: seen.get(name) for name in columns} != columns:
            raise self._error(entry, f"columns {', '.join(f'{name} ({kind})' for name, kind in seen.items())}")
        self._check_rows(entry, reader, allowed)
        return reader

    def _check_rows(self, entry: FileEntry, reader: pa.ipc.RecordBatchFileReader, allowed: range) -> None:
        """A number of rows that fits."""
        try:
            rows = reader.count_rows()
        except (pa.ArrowException, OSError) as error:
            raise self._error(entry, str(error)) from error
        if rows not in allowed:
            raise self._error(entry, f"{rows} rows")

    def _open(self, entry: FileEntry) -> pa.ipc.RecordBatchFileReader:
        """A listed file."""
        return open_arrow(self._root, entry)

    def _error(self, entry: FileEntry, seen: str) -> WorkspaceError:
        """What a file holds is not what its version says."""
        return WorkspaceError(
            f"{self._root / entry.path} does not fit version {self._manifest.version}: it holds {seen}: {REMEDY}"
        )


def _columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Types by name."""
    return {field.name: field.type for field in schema}


def _exactly(rows: int) -> range:
    """A single number of rows that a file may have."""
    return range(rows, rows + 1)
