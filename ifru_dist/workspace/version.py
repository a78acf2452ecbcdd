"""Reading one committed version: ids, examples, held-out pairs, embeddings, and the shard of some partitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ifru_dist.errors import WorkspaceError
from ifru_dist.interactions import Interactions
from ifru_dist.models.parameters import Parameters
from ifru_dist.workspace.dense import read_dense
from ifru_dist.workspace.files import FileEntry, open_arrow
from ifru_dist.workspace.gone import Columns, Gone, are_among, read_gone
from ifru_dist.workspace.graph import partition_edges
from ifru_dist.workspace.incidence import MappedIncidence
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.manifest import Manifest, ModelRecord
from ifru_dist.workspace.shapes import check_shapes
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.tables import read_all, read_partitions


@dataclass(frozen=True)
class Version:
    """A version of a workspace, opened for reading."""

    workspace: Workspace
    manifest: Manifest
    lent: bool = False
    """Whether the model is not the version's own: no manifest lists it yet."""
    read_before: Mapping[FileEntry, Columns] = field(default_factory=dict, repr=False, compare=False)
    """What a version before it has read of files that both list (``Gone.read``)."""

    def with_model(self, model: ModelRecord) -> "Version":
        """The data of the version with a model in the place of its own, of which no manifest knows."""
        return replace(self, manifest=replace(self.manifest, model=model), lent=True)

    @property
    def layout(self) -> Layout:
        """Partitions and table sizes."""
        return self.manifest.layout

    @property
    def model(self) -> ModelRecord:
        """The version's model.

        Raises:
            WorkspaceError: the version has none yet.
        """
        if self.manifest.model is None:
            raise WorkspaceError(f"{self.workspace.root} holds no model yet: make one with jobs/train.py")
        return self.manifest.model

    @property
    def trained_interactions(self) -> int:
        """Training interactions when the version's model was made."""
        if self.model.trained_interactions is not None:
            return self.model.trained_interactions
        original = self.workspace.manifest(self.model.trained_version)
        return original.n_examples - original.n_erased

    @property
    def trained_on(self) -> dict[str, Any]:
        """Of the version's model ``trained_examples`` and ``trained_sizes``: the ids and the rows that it knows."""
        model = self.model
        return {
            "trained_examples": self.trained_bound,
            "trained_sizes": self.layout.sizes if model.trained_sizes is None else model.trained_sizes,
        }

    @property
    def trained_bound(self) -> int:
        """Bound of the ids of the examples that the version's model was trained on; those from here on came later."""
        bound = self.model.trained_examples
        return self.manifest.n_examples if bound is None else bound

    @property
    def trained_items(self) -> range:
        """Global rows of the items that there were when the version's model was trained."""
        start = self.layout.offsets[1]
        return range(start, start + self.trained_on["trained_sizes"][1])

    def ids(self, table: int) -> pa.Array:
        """External ids of one table in row order: int64 or large_string; null where the row was forgotten."""
        ids = self._read(self.manifest.ids[table]).column("id").combine_chunks()
        forgotten = self.forgotten_rows()
        gone = np.zeros(len(ids), dtype=bool)
        gone[self.layout.local(forgotten[self.layout.table_of(forgotten) == table])] = True
        return pc.if_else(pa.array(gone), pa.scalar(None, ids.type), ids) if gone.any() else ids

    def id_type(self, table: int) -> pa.DataType:
        """Type of the external ids of one table: int64 or large_string."""
        return open_arrow(self.workspace.root, self.manifest.ids[table]).schema.field("id").type

    def forgotten_rows(self) -> NDArray[np.int64]:
        """Global rows (n,), ascending, of users and items that were erased wholly: ids and held-out pairs are gone."""
        return self._gone.rows.copy()

    def are_forgotten(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask in the shape of some global rows: which are forgotten; the cost goes with what is asked for."""
        return are_among(rows, self._gone.rows)

    def known_rows(self) -> NDArray[np.int64]:
        """Global rows (n,), ascending, that have an id: all but the forgotten ones."""
        return np.delete(np.arange(self.layout.n_rows), self.forgotten_rows())

    def find_rows(self, table: int, ids: pa.Array) -> NDArray[np.int64]:
        """Global rows (n,) of external ids given as strings, -1 where an id is null, unknown or forgotten."""
        known = self.ids(table).cast(pa.large_string())
        found = pc.index_in(ids.cast(pa.large_string()), value_set=known, skip_nulls=True)
        local = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(local >= 0, local + self.layout.offsets[table], -1)

    def all_examples(self) -> Interactions:
        """Every example by its id, which is the position; rows of -1 where it was erased and is in no file any more."""
        table = self._read(self.manifest.examples)
        stored, ids = self._interactions(table), table.column("example").to_numpy()
        rows = np.full((self.manifest.n_examples, len(self.layout.tables)), -1, dtype=np.int64)
        labels = np.zeros(len(rows), dtype=np.float32)
        rows[ids], labels[ids] = stored.rows, stored.labels
        return Interactions(rows, labels, np.arange(len(rows)))

    def erased_ids(self) -> NDArray[np.int64]:
        """Ids of the erased examples, ascending."""
        return np.flatnonzero(~self.alive())

    def erased_since(self, older: "Version") -> NDArray[np.int64]:
        """Ids of the examples of an older version that were erased after it, ascending.

        Its files hold them, whatever was compacted since.
        """
        return np.flatnonzero(older.alive() & ~self.alive()[: older.manifest.n_examples])

    def alive(self) -> NDArray[np.bool_]:
        """Mask over example ids, (n_examples,): False for the erased ones."""
        stored = self._read(self.manifest.examples).column("example")
        mask = np.full(self.manifest.n_examples, len(stored) == self.manifest.n_examples)
        if not mask.all():
            mask[stored.to_numpy()] = True
        return mask & ~self._entombed()

    def train(self) -> Interactions:
        """The examples that are left, in the order of their ids."""
        return self.all_examples().take(self.alive())

    def trained(self) -> Interactions:
        """Those of the examples that are left which the version's model was trained on, in the order of their ids."""
        known = self.alive()
        known[self.trained_bound :] = False
        return self.all_examples().take(known)

    def held_out(self, part: str) -> Interactions:
        """The ``valid`` or ``test`` pairs that are left, in their order."""
        return self.held_out_left(part)[1]

    def held_out_left(self, part: str) -> tuple[NDArray[np.int64], Interactions]:
        """The ``valid`` or ``test`` pairs that are left, behind their positions (n,) in the stored file."""
        pairs = self._interactions(self._read(self._held_out_file(part)))
        positions = self.held_out_standing(part, pairs.rows, np.arange(len(pairs)))
        return positions, pairs.take(positions)

    def held_out_stored(self, part: str) -> NDArray[np.int64]:
        """Rows (n, fields) of the ``valid`` or ``test`` pairs in the stored file, whether they are left or not."""
        return self._interactions(self._read(self._held_out_file(part))).rows

    def held_out_standing(self, part: str, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some positions in a stored file, whose pairs have ``rows``, that hold pairs which are left."""
        gone = are_among(positions, self._gone.held_out[part])
        return positions[~gone & ~self.are_forgotten(rows[positions]).any(axis=1)]

    def _held_out_file(self, part: str) -> FileEntry:
        """The stored file of a part."""
        return {"valid": self.manifest.valid, "test": self.manifest.test}[part]

    def embeddings(self) -> NDArray[np.float32]:
        """Embeddings (N, dim) of all rows in global order."""
        return read_all(self.workspace.root, self.layout, self.model.base, self.model.deltas)

    def embeddings_of(self, partitions: Sequence[int]) -> NDArray[np.float32]:
        """Embeddings (n, dim) of some partitions, in the order of ``mapped_incidence``."""
        return read_partitions(self.workspace.root, self.layout, self.model.base, self.model.deltas, partitions)

    def dense(self) -> dict[str, NDArray[np.float32]]:
        """The model's own parameters by name; empty where it has embedding rows only."""
        return read_dense(self.workspace.root, self.model.dense)

    def parameters(self) -> Parameters:
        """Embeddings of all rows and the model's own parameters."""
        return Parameters(self.embeddings(), self.dense())

    def mapped_incidence(self, partitions: Sequence[int]) -> MappedIncidence:
        """Rows of some partitions with the examples that are left, which are read when they are asked for."""
        manifest = self.manifest
        files = (manifest.graph, manifest.degrees)
        mapped = MappedIncidence(self.workspace.root, self.layout, *files, partitions, manifest.n_examples)
        erased = [self._read(entry).column("example").to_numpy() for entry in manifest.tombstones]
        if erased:
            mapped.erase(np.concatenate(erased))
        return mapped

    def partition_edges(self) -> NDArray[np.int64]:
        """Edges in each partition that the graph files hold, (partitions,): the weights for balancing."""
        return partition_edges(self.workspace.root, self.layout, self.manifest.graph)

    def original(self) -> "Version":
        """The version that training made: the same model before any unlearning.

        Raises:
            WorkspaceError: it was vacuumed.
        """
        return open_version(self.workspace, self.model.trained_version)

    @property
    def has_original(self) -> bool:
        """Whether the original was not vacuumed: it alone holds what was erased since."""
        return self.model.trained_version >= self.workspace.manifest().retained_from

    @cached_property
    def _gone(self) -> Gone:
        """What is gone while files hold it; a batch asks for it several times."""
        return read_gone(self.workspace.root, self.manifest, self.read_before)

    @property
    def _known_columns(self) -> Mapping[FileEntry, Columns]:
        """What was read by now, here or before."""
        return self._gone.read if "_gone" in self.__dict__ else self.read_before

    def _entombed(self) -> NDArray[np.bool_]:
        """Mask over example ids, (n_examples,): True for the erased ones that the files still hold."""
        mask = np.zeros(self.manifest.n_examples, dtype=bool)
        for entry in self.manifest.tombstones:
            mask[self._read(entry).column("example").to_numpy()] = True
        return mask

    def _read(self, entry: FileEntry) -> pa.Table:
        """A listed file as a table."""
        return open_arrow(self.workspace.root, entry).read_all()

    def _interactions(self, table: pa.Table) -> Interactions:
        """Stored interactions with global rows."""
        columns = [table.column(name).to_numpy().astype(np.int64) for name in self.layout.tables]
        rows = np.stack(columns, axis=1) + np.asarray(self.layout.offsets)
        return Interactions(rows, table.column("label").to_numpy().astype(np.float32))


def open_version(
    workspace: Workspace, version: int | None = None, *, check_content: bool = False, after: Version | None = None
) -> Version:
    """Open a version, by default the current one; every file is checked to be there in its size.

    Args:
        workspace: The workspace.
        version: Number of the version; None: the current one.
        check_content: Compare the checksums of the files, too, and what they hold with the manifest.
        after: An opened version of this workspace. Where it is the one just before, only the files that it does not
            list are checked, unless for their content: the others were when it was opened.

    Raises:
        WorkspaceError: naming what is missing, vacuumed or damaged, and the remedy.
    """
    manifest = workspace.manifest(version)
    workspace.check_retained(manifest)
    workspace.check_parent(manifest)
    if after is not None and (check_content or after.manifest.version + 1 != manifest.version):
        after = None
    workspace.verify(manifest, content=check_content, known=after.manifest.files() if after else ())
    if check_content:
        check_shapes(workspace.root, manifest)
    return Version(workspace, manifest, read_before=after._known_columns if after else {})
