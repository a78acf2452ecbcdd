"""The same batch solved by different numbers of workers, in turns, and where their time goes.

A workspace of generated interactions is made, or taken from --folder if one lies there. In each turn every number of
workers starts a gang that holds the version, solves the same batch some times, and makes room for the next; nothing is
committed, so the workspace stays as it is. The batch is whole users in random order, until they have --share of the
interactions. Medians count. Exchanges are split by what they take when nobody is late, which is timed before: their
number times the latency of a small sum, and the bytes of rows by the rate at which rows arrive; the rest is waiting.

    python -m benchmarks.scaling --interactions 20000000 --share 0.01 --output benchmarks/results
"""

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchmarks.records import keep
from benchmarks.scaling_runs import Batch, Gang, figures, same_bits
from benchmarks.synthetic import SyntheticConfig, generate
from ifru_dist.config import validated
from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.ray_session import ray_session
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

SPEED_UP = 1.7
"""What two workers are to reach over one."""
_USERS_PER, _ITEMS_PER = 20, 100  # interactions


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    interactions: Annotated[int, Field(ge=1000)] = 20_000_000
    """Of the workspace: training interactions of a twentieth as many users and a hundredth as many items."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Of them that the batch erases."""
    dim: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[int, Field(ge=1)] = 4
    """Of training."""
    workers: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2)
    """Numbers of workers."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Of each worker."""
    turns: Annotated[int, Field(ge=1)] = 3
    runs: Annotated[int, Field(ge=1)] = 2
    """Of each number of workers in a turn, after one that does not count."""
    seed: Annotated[int, Field(ge=0)] = 1
    folder: Path | None = None
    """Where logs and workspace stay, and are found again; without it they go when all is measured."""
    output: Path | None = None
    """Where a dated file of the figures is kept."""


def main(config: Config) -> None:
    """Make the workspace, let the gangs take turns, print, and keep the figures."""
    config = validated(config)
    with nullcontext(config.folder) if config.folder else TemporaryDirectory(prefix="scaling-") as folder:
        version = prepared(config, Path(folder))
        results = measured(config, version)
    for name, value in results.items():
        print(f"{name}: {value}")
    if config.output is not None:
        keep(config.output, "scaling", results)


def prepared(config: Config, folder: Path) -> Version:
    """A workspace with a model in the folder: the one that lies there, or a new one."""
    workspace = Workspace(folder / "workspace")
    if not workspace.root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        logs = SyntheticConfig(
            output=folder / "logs",
            interactions=config.interactions,
            users=config.interactions // _USERS_PER,
            items=config.interactions // _ITEMS_PER,
            seed=config.seed,
        )
        generate(logs)
        for_training = (1.0, 0.0, 0.0)  # all of them
        preprocess(
            PreprocessConfig(logs=str(logs.output), workspace=workspace.root, positive_threshold=5, split=for_training)
        )
        # Each step of Adam passes over the whole table: large batches, and few steps.
        options: dict[str, Any] = {"batch_size": 1 << 17, "learning_rate": 0.01, "epochs": config.epochs}
        train(TrainConfig(workspace=workspace.root, model="mf", dim=config.dim, seed=config.seed, **options))
    return open_version(workspace)


def measured(config: Config, version: Version) -> dict[str, Any]:
    """What is kept: of the batch, and of each number of workers."""
    batch = drawn(version, config.share, config.seed)
    say(f"the batch: {len(batch.examples)} interactions of {batch.users} users")
    gangs = [Gang(version, workers, config.threads) for workers in sorted(set(config.workers))]
    with ray_session(max(config.workers) * config.threads):
        for _, gang in product(range(config.turns), gangs):
            with gang.standing():
                for number in range(config.runs + 1):
                    run = gang.solve(batch, keep_it=number > 0)
                    say(f"{gang.workers} worker(s): {run.seconds:.3f} s{'' if number else ' (to warm up)'}")
    rows = [figures(gang) for gang in gangs]
    return {
        "interactions": version.manifest.n_examples,
        "rows": version.layout.n_rows,
        "dim": version.model.spec.dim,
        "batch": {"interactions": len(batch.examples), "users": batch.users},
        "threads": config.threads,
        "turns": config.turns,
        "runs_of_a_turn": config.runs,
        "same_bits": same_bits(gangs),
        "workers": rows,
        "speed_up": {str(row["workers"]): rows[0]["seconds"] / row["seconds"] for row in rows},
        "speed_up_asked_of_2": SPEED_UP,
    }


def drawn(version: Version, share: float, seed: int) -> Batch:
    """Whole users in random order, until they have a share of the training interactions."""
    trained = version.trained()
    assert trained.ids is not None
    counts = np.bincount(trained.pairs[:, 0])
    users = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
    needed = int(np.searchsorted(np.cumsum(counts[users]), share * len(trained))) + 1
    goes: NDArray[np.bool_] = np.zeros(len(counts), dtype=bool)
    goes[users[:needed]] = True
    erased = goes[trained.pairs[:, 0]]
    return Batch(examples=trained.ids[erased], pairs=trained.pairs[erased], users=needed)


if __name__ == "__main__":
    run_command(Config, main)
