"""What a commit of a small batch costs, in a small workspace and in one that is a hundred times larger.

A batch erases 10 interactions and changes 20 rows; it is committed as jobs/unlearn.py does, all files synced. Only the
commit is timed, not the opening of the version before it. The workspaces take turns, so that both meet the disk in the
same state.

    python -m benchmarks.commits --output benchmarks/results
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import pyarrow as pa
import tyro
from pydantic import Field

from benchmarks.records import keep
from ifru_dist.config import validated
from ifru_dist.interactions import Interactions
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.commits import Erasure, NewModel, commit_erasure, commit_model
from ifru_dist.workspace.dataset import Dataset, write_dataset
from ifru_dist.workspace.keys import DIGEST_BYTES
from ifru_dist.workspace.ledger import LedgerEntry
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

ERASED, ROWS, DIM = 10, 20, 48
"""Interactions and changed rows of a batch, and columns of a row."""
LARGER = 100
P50_MS, RATIO = 50.0, 1.5
"""What the median, and that of the larger workspace over that of the smaller, are to stay within."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time commits in two workspaces."""

    interactions: Annotated[int, Field(ge=1000)] = 10_000
    """In the smaller workspace; the other has a hundred times as many."""
    commits: Annotated[int, Field(ge=1)] = 100
    """In each."""
    folder: Path | None = None
    """Where the workspaces are made, and so the file system that is measured; default: that of temporary files."""
    output: Path | None = None
    """Where a dated file of the figures is kept."""


def main(config: Config) -> None:
    """Make the workspaces, commit in turns, print, and keep the figures."""
    config = validated(config)
    counts = (config.interactions, LARGER * config.interactions)
    with TemporaryDirectory(dir=config.folder) as folder:
        streams = [_committed(_workspace(Path(folder) / str(count), count), config.commits) for count in counts]
        os.sync()
        seconds = list(zip(*zip(*streams, strict=True), strict=True))
    sizes = {str(count): _figures(np.array(times) * 1e3) for count, times in zip(counts, seconds, strict=True)}
    small, large = sizes.values()
    ratio = large["p50_ms"] / small["p50_ms"]
    for count, figures in sizes.items():
        print(f"{int(count):>11,} interactions: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
    print(f"p50 at most {P50_MS:g} ms: {'met' if large['p50_ms'] <= P50_MS else 'missed'}")
    print(f"ratio {ratio:.2f}, at most {RATIO:g}: {'met' if ratio <= RATIO else 'missed'}")
    if config.output is not None:
        keep(
            config.output,
            "commits",
            {"results": {"commits": config.commits, "interactions": sizes, "ratio_p50": ratio}},
        )


def _workspace(root: Path, count: int) -> Workspace:
    """Random interactions and a random model."""
    rng = np.random.default_rng(1)
    users, items = max(1, count // 20), max(1, count // 50)
    pairs = np.stack([rng.integers(0, users, count), users + rng.integers(0, items, count)], axis=1)
    train = Interactions(pairs, rng.integers(0, 2, count).astype(np.float32))
    held_out = train.take(np.arange(count // 10))
    ids = (pa.array(np.arange(users), pa.int64()), pa.array(np.arange(items), pa.int64()))
    embeddings = rng.normal(size=(users + items, DIM)).astype(np.float32)
    model = NewModel(
        spec=ModelSpec(dim=DIM), source="trained", options={}, seed=1, parameters=Parameters(embeddings, {})
    )
    workspace = Workspace(root)
    write_dataset(workspace, Dataset(ids=ids, train=train, valid=held_out, test=held_out), partitions=256)
    commit_model(open_version(workspace), model)
    return workspace


def _committed(workspace: Workspace, commits: int) -> Iterator[float]:
    """The seconds of one commit after the other."""
    rng, examples = np.random.default_rng(2), np.arange(ERASED)
    for number in range(commits):
        version = open_version(workspace)
        batch = _batch(rng, version.layout.n_rows, number * ERASED + examples)
        start = time.perf_counter()
        commit_erasure(version, batch)
        yield time.perf_counter() - start


def _batch(rng: np.random.Generator, n_rows: int, examples: np.ndarray) -> Erasure:
    """A batch of one request for each example."""
    digests = [rng.bytes(DIGEST_BYTES) for _ in examples]
    requests = [
        LedgerEntry(request_id=digest.hex()[:32], scope="interaction", digest=digest, status="applied", interactions=1)
        for digest in digests
    ]
    return Erasure(
        examples=examples,
        rows=np.sort(rng.choice(n_rows, ROWS, replace=False)),
        values=rng.normal(size=(ROWS, DIM)).astype(np.float32),
        requests=requests,
        suppressed=digests,
        summary={"interactions_erased": len(examples)},
    )


def _figures(times_ms: np.ndarray) -> dict[str, float]:
    """Quantiles of some times in milliseconds."""
    return {f"p{share}_ms": float(np.percentile(times_ms, share)) for share in (50, 90, 99)}


if __name__ == "__main__":
    main(tyro.cli(Config))
