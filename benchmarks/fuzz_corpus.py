"""Files of every kind that the jobs read, small and whole: what the fuzzer damages.

Ids of users begin with ``person``, so that a message which tells one is noticed.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ifru_dist.ingest.quarantine import QUARANTINE
from ifru_dist.interactions import Interactions
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.commits import Erasure, NewModel, commit_erasure, commit_model
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import create_key, fingerprint, keyed_digest
from ifru_dist.workspace.ledger import LedgerEntry
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

USERS = np.array([f"person{row:03d}" for row in range(13)])
ITEMS = np.arange(9) * 7 + 100
DIM = 4
DENSE = {"bias": (3,)}
PARTITIONS = 5
PERSON = "person"


def make_corpus(folder: Path) -> None:
    """Write every file; the same bytes each time but for the workspace's key and times."""
    chance = np.random.default_rng(5)
    _make_workspace(folder / "ws", chance)
    _make_requests(folder)
    _make_logs(folder, chance)
    _make_models(folder, chance)
    _make_lists(folder)
    _make_quarantine(folder)


def _make_workspace(root: Path, chance: np.random.Generator) -> None:
    """A workspace with a file of every kind: data, a model, two batches."""
    workspace = Workspace(root)
    key = create_key(workspace.default_key_file)
    train, held_out = _interactions(chance, 60), _interactions(chance, 12)
    ids = (pa.array(USERS.tolist(), pa.large_string()), pa.array(ITEMS, pa.int64()))
    data = Dataset(ids=ids, train=train, valid=held_out, test=held_out, key_fingerprint=fingerprint(key))
    n_rows = len(USERS) + len(ITEMS)
    model = NewModel(
        spec=ModelSpec(dim=DIM),
        source="imported",
        options={"epochs": 3},
        seed=7,
        parameters=Parameters(_floats(chance, n_rows, DIM), {"bias": _floats(chance, 3)}),
    )
    with workspace.lock("fuzz"):
        write_dataset(workspace, data, PARTITIONS)
        commit_model(open_version(workspace), model)
        for batch in range(2):
            digest = keyed_digest(key, "user", str(USERS[batch]), None)
            entry = LedgerEntry(request_id=f"r{batch}", scope="user", digest=digest, status="applied", interactions=2)
            erasure = Erasure(
                examples=np.array([2 * batch, 2 * batch + 1]),
                rows=np.array([batch, len(USERS) + batch]),
                values=_floats(chance, 2, DIM),
                requests=[entry],
                suppressed=[digest],
                summary={"interactions_erased": 2},
                forgotten=np.array([batch]),
                held_out={"test": np.array([batch])},
                dense={"bias": _floats(chance, 3)},
            )
            commit_erasure(open_version(workspace), erasure)


def _make_requests(folder: Path) -> None:
    """The same requests in each format."""
    frame = pd.DataFrame(
        {
            "user": [*USERS[:6], None, "person00,1"],
            "item": [*map(str, ITEMS[:5]), None, "107", '1"07'],
            "scope": [*["interaction"] * 5, "user", "item", "interaction"],
            "request_id": [f"ticket-{row}" for row in range(8)],
        }
    )
    frame.to_parquet(folder / "requests.parquet", index=False)
    frame.to_csv(folder / "requests.csv", index=False)
    frame.to_json(folder / "requests.jsonl", orient="records", lines=True)


def _make_logs(folder: Path, chance: np.random.Generator) -> None:
    """The same logs as Parquet (in two row groups, of dictionaries) and as CSV."""
    frame = pd.DataFrame(
        {
            "user": USERS[chance.integers(0, len(USERS), 80)],
            "item": ITEMS[chance.integers(0, len(ITEMS), 80)],
            "rating": chance.integers(1, 11, 80) / 2,
            "timestamp": pd.Timestamp("2026-01-01") + pd.to_timedelta(chance.integers(0, 10**6, 80), unit="s"),
        }
    )
    frame.to_parquet(folder / "logs.parquet", index=False, row_group_size=40)
    frame.to_csv(folder / "logs.csv", index=False)


def _make_models(folder: Path, chance: np.random.Generator) -> None:
    """The same model in each format; its rows are not in the order of the workspace."""
    users, items = chance.permutation(USERS), chance.permutation(ITEMS)
    numbers = {
        "user": _floats(chance, len(USERS), DIM),
        "item": _floats(chance, len(ITEMS), DIM),
        "dense.bias": _floats(chance, 3),
    }
    np.savez(folder / "model.npz", user_ids=users, item_ids=items, **numbers)  # type: ignore[arg-type]
    np.savez_compressed(folder / "packed.npz", user_ids=users, item_ids=items, **numbers)  # type: ignore[arg-type]
    listed = "[" + ", ".join(f'"{user}"' for user in users) + "]"
    save_file({**numbers, "item_ids": items}, folder / "model.safetensors", metadata={"user_ids": listed})
    tensors = {name: torch.from_numpy(values) for name, values in numbers.items()}
    content = {**tensors, "user_ids": users.tolist(), "item_ids": torch.from_numpy(items)}
    torch.save(content, folder / "model.pt")
    torch.save(content, folder / "model.pth", _use_new_zipfile_serialization=False)


def _make_lists(folder: Path) -> None:
    """Lists of ids in each format."""
    for name in ("txt", "csv", "parquet"):
        (folder / name).mkdir()
    text = "org_id remap_id\n" + "".join(f"{user} {row}\n" for row, user in enumerate(USERS))
    (folder / "txt" / "user_list.txt").write_text(text)
    frame = pd.DataFrame({"id": USERS, "row": range(len(USERS))})
    frame.to_csv(folder / "csv" / "user_ids.csv", index=False)
    frame.to_parquet(folder / "parquet" / "user_ids.parquet", index=False)


def _make_quarantine(folder: Path) -> None:
    """Rows that preprocessing could not use."""
    n_rows = len(USERS)
    columns = {"reason": ["bad_rating"] * n_rows, "file": ["logs.csv"] * n_rows, "row": range(n_rows)}
    columns |= {"user": USERS.tolist(), "item": [str(ITEMS[0])] * n_rows, "value": ["x"] * n_rows}
    known = {name: pa.array(values, QUARANTINE.field(name).type) for name, values in columns.items()}
    rows = [known.get(field.name, pa.nulls(n_rows, field.type)) for field in QUARANTINE]
    pq.write_table(pa.Table.from_arrays(rows, schema=QUARANTINE), folder / "quarantine.parquet")


def _interactions(chance: np.random.Generator, n_rows: int) -> Interactions:
    """Random pairs of global rows with labels."""
    users = chance.integers(0, len(USERS), n_rows)
    items = chance.integers(0, len(ITEMS), n_rows) + len(USERS)
    return Interactions(np.stack([users, items], axis=1), chance.integers(0, 2, n_rows).astype(np.float32))


def _floats(chance: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Random numbers."""
    return chance.normal(size=shape).astype(np.float32)
