"""The proof that erasing reaches the files: after a vacuum no file of the workspace holds what was erased."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.batches import BATCH, ERASED, MODELS, ROWS, run
from tests.pipelines.small import SIZES, one_torch_thread, pair, small_workspace, tree


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def columns_of(path: Path) -> dict[str, list[Any]]:
    """Every column of a file, decoded; a JSON file or a text is one column of one value."""
    if path.suffix == ".arrow":
        with pa.ipc.open_file(path) as reader:
            table = reader.read_all()
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        return {"text": [path.read_text()]}
    assert set(table.column_names) == set(table.to_pydict())
    return table.to_pydict()


def every_file(root: Path) -> dict[str, dict[str, list[Any]]]:
    return {name: columns_of(root / name) for name, content in tree(root).items() if content is not None}


# -------------------------------------------------------------------------------------------- what the columns say


@dataclass(frozen=True)
class Erased:
    """What must be in no file."""

    examples: set[int]
    pairs: set[tuple[int, int]]
    """User and item row, each within its table."""
    ids: set[Any]
    embeddings: set[bytes]
    """Rows as they were before they were changed."""

    def seen_in(self, columns: dict[str, list[Any]]) -> set[str]:
        """In which columns something of it stands."""
        found = {name for name, values in columns.items() if self.ids & set(flat(values))}
        found |= {name for name in ("example",) if self.examples & set(columns.get(name, []))}
        pairs = zip(columns.get("user", []), columns.get("item", []), strict=True)
        found |= {"pair"} if self.pairs & set(pairs) else set()
        rows = {np.array(row, np.float32).tobytes() for row in columns.get("embedding", [])}
        return found | ({"embedding"} if self.embeddings & rows else set())


def flat(values: list[Any]) -> list[Any]:
    """Ids are texts or integers beyond all rows and counts; other integers are not looked at."""
    return [value for value in values if isinstance(value, str) or (isinstance(value, int) and value >= 10_000)]


def edges(version: Version) -> set[tuple[int, int]]:
    """User and item row, each within its table, of every edge that the graph files hold, read from both ends."""
    root, layout, found = version.workspace.root, version.layout, set()
    for table in (0, 1):
        graph, degrees = (
            columns_of(root / files[table].path) for files in (version.manifest.graph, version.manifest.degrees)
        )
        near = np.repeat(layout.stored_order(table), degrees["degree"]).tolist()
        assert len(near) == len(graph["other"])
        found |= {(one, other) if table == 0 else (other, one) for one, other in zip(near, graph["other"], strict=True)}
    return found


@MODELS
def test_no_column_of_any_file_holds_an_erased_example_pair_id_or_embedding(tmp_path: Path, model: str) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root, name=model, partitions=3)
    requests = [*BATCH, pair(ROWS[60])]
    gone = np.union1d(ERASED, np.flatnonzero((ROWS[60] == ROWS).all(axis=1)))
    middle = run(root, *requests[:2])
    after = run(root, *requests[2:])
    forgotten = after.forgotten_rows()
    changed = [before.embeddings() != after.embeddings(), middle.embeddings() != after.embeddings()]
    old = [version.embeddings()[rows.any(axis=1)] for version, rows in zip((before, middle), changed, strict=True)]
    erased = Erased(
        examples=set(gone.tolist()),
        pairs={(int(user), int(item) - SIZES[0]) for user, item in ROWS[gone]},
        ids={before.ids(int(row >= SIZES[0])).to_pylist()[row - SIZES[0] * (row >= SIZES[0])] for row in forgotten},
        embeddings={row.tobytes() for row in np.concatenate(old)},
    )
    # Ids of users are integers below 10,000 here, so they are looked for where ids stand.
    user_ids = {value for value in erased.ids if isinstance(value, int)}
    evaluate(EvaluateConfig(workspace=root))
    seen = [erased.seen_in(columns) for columns in every_file(root).values()]
    assert set().union(*seen) == {"id", "example", "pair", "embedding"}
    assert erased.pairs & edges(after)

    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    files = every_file(root)
    assert {name: erased.seen_in(columns) for name, columns in files.items() if erased.seen_in(columns)} == {}
    current = open_version(Workspace(root), check_content=True)
    assert not erased.pairs & edges(current)
    assert not user_ids & set(files[current.manifest.ids[0].path]["id"])
    # Nothing but what the current version lists, manifests, reports and the lock is there at all.
    listed = {entry.path for entry in current.manifest.files()}
    others = {name.split("/")[0] for name in files if name not in listed}
    assert others == {"versions", "reports", "lock"}
    assert {name.split("-")[0] for name in listed if not name.startswith(("requests/", "suppression/"))} == {
        *("ids/user", "ids/item", "split/valid", "split/test", "examples/examples"),
        *("graph/user", "graph/item", "tables/user", "tables/item"),
    }


# ---------------------------------------------------------------------------------------------- what the bytes say


def planted_logs(path: Path, users: list[Any], items: list[Any], *, text: bool) -> Path:
    """Ratings of every user for every item but some, and rows of all kinds that cannot be used."""
    rng = np.random.default_rng(4)
    rows = [(u, i, float(rng.integers(1, 6))) for u in users for i in items if rng.random() < 0.7]
    if not text:
        bad = [(users[0], None, 4.0), (None, items[0], 4.0), (users[0], items[3], None), (users[3], items[0], None)]
        bad += [(users[1], items[1], None), (users[4], items[4], None)]
        columns = zip(*rows, *bad, strict=True)
        kinds = (pa.int64(), pa.int64(), pa.float64())
        table = {name: pa.array(c, k) for name, c, k in zip(("user", "item", "rating"), columns, kinds, strict=True)}
        pq.write_table(pa.table(table), path)
        return path
    lines = ["user,item,rating", *(",".join(map(str, row)) for row in rows)]
    lines += [f"{users[0]},,4", f",{items[0]},4", f"{users[0]},{items[3]},none", f"{users[3]},{items[0]},nan"]
    lines += [f"{users[1]},{items[1]},?", f"{users[0]}", f"1,2,3,{users[0]},{items[2]}", f"{items[0]},x,y,4"]
    lines += [f'"{users[0]}",{items[5]},1,2', f"{users[1]},{items[1]},3,4", f"{users[4]},{items[4]},3,4", "a,b,c,d"]
    lines += [f"{users[4]},{items[4]},not a rating"]
    path.write_text("\n".join(lines) + "\n")
    return path


IDS = {
    "text": ([f"user-{n}-of-berlin" for n in range(12)], [f"film/{n}/äö" for n in range(9)]),
    "integers": (
        [7_316_502_948_113 + n * 1_000_003 for n in range(12)],
        [81_450_772_366 + n * 999_983 for n in range(9)],
    ),
    "integers in CSV": ([5_316_502_948_113 + n * 1_000_003 for n in range(12)], [61_450_772_366 + n for n in range(9)]),
}


def spellings(external: Any) -> list[bytes]:
    """How an id may stand in a file: as text, in JSON, and an integer as eight bytes."""
    text = str(external)
    binary = [external.to_bytes(8, "little"), external.to_bytes(8, "big")] if isinstance(external, int) else []
    return [text.encode(), json.dumps(text)[1:-1].encode(), *binary]


def holding(root: Path, external: Any) -> set[str]:
    """Files whose bytes, or the decoded texts of whose columns, hold an id."""
    found = set()
    for name, content in tree(root).items():
        if content is None:
            continue
        texts = [str(value) for values in columns_of(root / name).values() for value in values]
        hits = [spelling in content for spelling in spellings(external)]
        if any(hits) or any(str(external) in text for text in texts):
            found.add(name)
    return found


@pytest.mark.parametrize("kind", IDS)
def test_ids_that_were_planted_are_in_the_bytes_of_no_file(tmp_path: Path, kind: str) -> None:
    root, (users, items) = tmp_path / "ws", IDS[kind]
    text = kind != "integers"
    logs = planted_logs(tmp_path / ("logs.csv" if text else "logs.parquet"), users, items, text=text)
    preprocess(PreprocessConfig(logs=str(logs), workspace=root, positive_threshold=3, partitions=4, max_bad_share=0.5))
    train(TrainConfig(workspace=root, dim=4, epochs=2))
    version = open_version(Workspace(root))
    rows = version.train().rows
    known = [version.ids(table).to_pylist() for table in (0, 1)]
    assert users[0] in known[0]
    assert items[0] in known[1]
    named = [(known[0][row[0]], known[1][row[1] - len(known[0])]) for row in rows.tolist()]
    user, item = next(pair for pair in named if pair[0] not in users[:2] and pair[1] != items[0])
    requests = [
        {"user": str(users[0]), "scope": "user"},
        {"item": str(items[0]), "scope": "item"},
        {"user": str(user), "item": str(item)},
    ]
    before = pq.read_table(root / "quarantine" / "rows.parquet").num_rows
    run(root, *requests)
    run(root, requests[0])  # nothing to do: its report stays, too
    for external in (users[0], items[0]):
        folders = {name.split("/")[0] for name in holding(root, external)}
        assert folders == {"ids", "quarantine"}

    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    for external in (users[0], items[0]):
        assert holding(root, external) == set()
    assert {name.split("/")[0] for name in holding(root, users[1])} == {"ids", "quarantine"}  # and no other id went
    left = pq.read_table(root / "quarantine" / "rows.parquet").to_pylist()
    assert before - len(left) == {"text": 8, "integers": 4, "integers in CSV": 8}[kind]
    assert any(row["user"] == str(users[1]) and row["item"] == str(items[1]) for row in left)
    assert any(row["user"] == str(users[4]) for row in left)
    assert not any(name.split("/")[0] in ("requests", "suppression") for name in holding(root, user))


def test_a_pair_that_was_erased_goes_from_the_quarantine_and_its_ids_stay(tmp_path: Path) -> None:
    root, (users, items) = tmp_path / "ws", IDS["text"]
    logs = planted_logs(tmp_path / "logs.csv", users, items, text=True)
    with logs.open("a") as file:
        file.write("".join(f"{users[1]},{i},1,{n}\n{users[1]},{i},bad\n" for n, i in enumerate(items)))
    preprocess(PreprocessConfig(logs=str(logs), workspace=root, positive_threshold=3, partitions=4, max_bad_share=0.5))
    train(TrainConfig(workspace=root, dim=4, epochs=1))
    version = open_version(Workspace(root))
    row = version.find_rows(0, pa.array([users[1]]))[0]
    mine = version.train().rows[version.train().rows[:, 0] == row][0, 1] - version.layout.offsets[1]
    item = version.ids(1)[int(mine)].as_py()
    run(root, {"user": users[1], "item": item})
    quarantine = root / "quarantine" / "rows.parquet"
    named = [row for row in pq.read_table(quarantine).to_pylist() if users[1] in (row["user"] or row["line"] or "")]
    assert vacuum(VacuumConfig(workspace=root, keep_versions=1)) == 0
    left = [row for row in pq.read_table(quarantine).to_pylist() if users[1] in (row["user"] or row["line"] or "")]
    assert 0 < len(left) < len(named)
    assert [row for row in left if item in (row["item"] or row["line"])] == []
    assert left == [row for row in named if item not in (row["item"] or row["line"])]
