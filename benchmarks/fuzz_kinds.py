"""The kinds of files that are fuzzed: how each is read by the jobs, and what may come of it.

A file with a checksum is refused or reads as before. One without is refused, or read as what its bytes say now: then
the result is held to what every result has to be, and where it is easy to an independent reading of the bytes.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_corpus import DENSE, DIM, ITEMS, USERS
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.preparing import prepare
from ifru_dist.ingest.scrubbing import scrub_quarantine
from ifru_dist.pipelines.requests import read_requests
from ifru_dist.training.id_lists import read_id_list
from ifru_dist.training.imported import load_embeddings
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.ledger import read_ledger
from ifru_dist.workspace.manifest import Manifest
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

Content = Any
TABLES = {"user": USERS, "item": ITEMS}


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    name: str
    path: str
    """Of the file that is damaged, below the corpus."""
    read: Callable[[Path], Content]
    """Reads the damaged corpus as a job does; the result is compared by ==."""
    is_valid: Callable[[Content, Path], bool] | None = None
    """Whether another result than before is what the bytes say now; None: it never is."""


def kinds_of(folder: Path) -> list[Kind]:
    """Every kind, for a corpus."""
    manifest = Workspace(folder / "ws").manifest()
    inner = {"manifest": f"versions/{manifest.version:06d}.json", **_workspace_files(manifest)}
    return [
        *(Kind(f"workspace: {name}", f"ws/{path}", read_workspace) for name, path in inner.items()),
        Kind("workspace: manifest before", f"ws/versions/{manifest.version - 1:06d}.json", read_workspace),
        Kind("workspace: key", "ws.key", read_workspace),
        *(Kind(f"requests: {end}", f"requests.{end}", _requests(end), _valid_requests(end)) for end in _REQUEST_ENDS),
        *(Kind(f"logs: {end}", f"logs.{end}", _logs(end), _valid_logs) for end in ("parquet", "csv")),
        Kind("quarantine: parquet", "quarantine.parquet", _quarantine, _valid_quarantine),
        Kind("model: npz", "model.npz", _model("model.npz")),
        Kind("model: npz, compressed", "packed.npz", _model("packed.npz")),
        Kind("model: safetensors", "model.safetensors", _model("model.safetensors"), _valid_safetensors),
        Kind("model: pt", "model.pt", _model("model.pt")),
        Kind("model: pth of old torch", "model.pth", _model("model.pth"), _valid_model),
        Kind("ids: txt", "txt/user_list.txt", _id_list("txt"), _valid_ids),
        Kind("ids: csv", "csv/user_ids.csv", _id_list("csv"), _valid_ids),
        Kind("ids: parquet", "parquet/user_ids.parquet", _id_list("parquet"), _valid_ids),
    ]


_REQUEST_ENDS = ("parquet", "csv", "jsonl")


def _workspace_files(manifest: Manifest) -> dict[str, str]:
    """A file of each kind that a version lists: name -> path. The kind is the name without its digest."""
    return {entry.path.rpartition("-")[0]: entry.path for entry in manifest.files()}


def read_workspace(folder: Path) -> Content:
    """All that a version holds, with its key and ledger."""
    workspace = Workspace(folder / "ws")
    version = open_version(workspace, check_content=True)
    manifest, layout = version.manifest, version.layout
    key = load_key(workspace.default_key_file, manifest.key_fingerprint)
    ledger = read_ledger(workspace.root, manifest.requests, manifest.suppression, manifest.released)
    parts = [version.train(), version.held_out("valid"), version.held_out("test")]
    edges = version.mapped_incidence(range(layout.partitions)).whole()
    arrays = [part.rows for part in parts] + [part.labels for part in parts] + [edges.indptr, edges.others, edges.label]
    arrays += [edges.example, version.embeddings(), version.partition_edges(), *version.dense().values()]
    ids = [version.ids(table).to_pylist() for table in range(len(layout.tables))]
    return manifest, key, ledger, ids, [(array.shape, array.tobytes()) for array in arrays]


def _requests(end: str) -> Callable[[Path], Content]:
    """Reads a request file."""
    return lambda folder: read_requests(folder / f"requests.{end}")


def _valid_requests(end: str) -> Callable[[Content, Path], bool]:
    """Judges requests, those of text files by an independent reading, too."""

    def is_valid(content: Content, folder: Path) -> bool:
        path = folder / f"requests.{end}"
        if end == "parquet":
            return _fit_their_scopes(content)
        records = _csv_records(path) if end == "csv" else _json_records(path)
        expected = [tuple(record.get(name) or None for name in ("request_id", "user", "item")) for record in records]
        return _fit_their_scopes(content) and expected == [(each.request_id, each.user, each.item) for each in content]

    return is_valid


def _csv_records(path: Path) -> list[dict[str, Any]]:
    """Cells by column, as Python's own parser sees a CSV file."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    names, *rows = (row for row in csv.reader(io.StringIO(text, newline="")) if row)
    return [dict(zip(names, row, strict=False)) for row in rows]


def _json_records(path: Path) -> list[dict[str, Any]]:
    """Texts by name; whole numbers in digits."""
    lines = [json.loads(line) for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    return [
        {name: f"{cell:.0f}" if isinstance(cell, (int, float)) else cell for name, cell in line.items()}
        for line in lines
    ]


def _fit_their_scopes(content: Content) -> bool:
    """Each request has the cells that its scope needs, filled with text that can be digested and stored."""
    named = {"interaction": (True, True), "user": (True, False), "item": (False, True)}
    texts = [cell for request in content for cell in (request.user, request.item, request.request_id)]
    return all(named[request.scope] == (bool(request.user), bool(request.item)) for request in content) and all(
        text is None or text.encode().decode() == text for text in texts
    )


def _logs(end: str) -> Callable[[Path], Content]:
    """Reads logs as preprocessing does."""

    def read(folder: Path) -> Content:
        options = PrepareOptions(logs=str(folder / f"logs.{end}"), positive_threshold=2.5, k_core=1)
        prepared = prepare(options, "synchronous", folder / "bad.parquet", lambda line: None)
        data = prepared.dataset
        parts = [(part.rows.tolist(), part.labels.tolist()) for part in (data.train, data.valid, data.test)]
        return [ids.to_pylist() for ids in data.ids], parts, prepared.counts

    return read


def _valid_logs(content: Content, folder: Path) -> bool:
    """Ids are sorted, distinct and storable, rows lie in their tables, and every row that was read is accounted for."""
    ids, parts, counts = content
    bounds = np.cumsum([0, *map(len, ids)])
    rows = np.array([row for part, _ in parts for row in part], dtype=np.int64).reshape(-1, len(ids))
    good = counts["rows_read"] - sum(counts["quarantined"].values())
    return (
        all(named == sorted(set(named)) and None not in named for named in ids)
        and all(name == str(name).encode().decode() for name in ids[0] if isinstance(name, str))
        and bool((rows >= bounds[:-1]).all() and (rows < bounds[1:]).all())
        and {label for _, labels in parts for label in labels} <= {0.0, 1.0}
        and good == counts["rows_after_k_core"] + counts["duplicates"]
        and len(rows) == counts["rows_after_k_core"] - sum(counts["dropped_unseen"].values())
    )


def _quarantine(folder: Path) -> Content:
    """Looks for what was erased in the quarantine, as a dry run of vacuuming does."""

    def was_erased(user: str | None, item: str | None) -> bool:
        return user in USERS[:2].tolist() and item is None

    return scrub_quarantine(folder / "quarantine.parquet", was_erased, (False, True), dry_run=True)


def _valid_quarantine(content: Content, folder: Path) -> bool:
    """Not more rows go than there are."""
    return 0 <= content[1] <= content[0]


def _model(name: str) -> Callable[[Path], Content]:
    """Imports a model."""

    def read(folder: Path) -> Content:
        found = load_embeddings(folder / name, TABLES, expected_dense=DENSE)
        dense = {parameter: values.tolist() for parameter, values in found.dense.items()}
        return found.embeddings.tolist(), found.ignored, dense

    return read


def _valid_model(content: Content, folder: Path) -> bool:
    """The shapes are right and the numbers finite."""
    embeddings, _, dense = content
    matrix = np.array(embeddings)
    shapes = {name: np.shape(values) for name, values in dense.items()}
    return matrix.shape == (len(USERS) + len(ITEMS), DIM) and bool(np.isfinite(matrix).all()) and shapes == DENSE


def _valid_safetensors(content: Content, folder: Path) -> bool:
    """What the header says, taken from the bytes behind it."""
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    kinds = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4"}
    arrays = {"user_ids": np.array(json.loads(header.pop("__metadata__")["user_ids"]))}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], kinds[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"])
    rows = []
    for table, ids in TABLES.items():
        of = {str(name): row for row, name in enumerate(arrays[f"{table}_ids"].tolist())}
        rows.append(arrays[table].astype(np.float32)[[of[str(name)] for name in ids.tolist()]])
    expected = [row for part in rows for row in part.tolist()]
    return _valid_model(content, folder) and content[0] == expected


def _id_list(end: str) -> Callable[[Path], Content]:
    """Reads a list of ids."""
    return lambda folder: read_id_list(folder / end, "user").ids.tolist()


def _valid_ids(content: Content, folder: Path) -> bool:
    """Text that can be stored, or integers."""
    return all(isinstance(name, int) or name.encode().decode() == name for name in content)
