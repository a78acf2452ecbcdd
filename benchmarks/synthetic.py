"""Generator of realistic interactions of any number, for the demo and for benchmarks.

What is planted: every user and item has a bias and a factor, and their dot product decides, with logistic noise, how a
user rates an item. Item popularity follows Zipf's law and user activity is log-normal. Ratings above 5 have the
probability sigmoid(planted score), so a threshold at 5 gives labels that a factor model can learn. With --hours a third
field decides, too: every hour has a bias, and a factor that meets one of the item's.

    python -m benchmarks.synthetic --interactions 200000 --seed 7 --output interactions.parquet
    python -m benchmarks.synthetic --interactions 20000000 --users 1000000 --items 200000 --processes 2 --output logs
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.synthetic_blocks import SyntheticConfig, drawn_block, plan_of
from ifru_dist.config import validated
from ifru_dist.errors import ConfigError

__all__ = ["SyntheticConfig", "generate", "interactions"]

Result = TypeVar("Result")


def generate(config: SyntheticConfig) -> float:
    """Write the interactions of a config to its output, and say how skewed they are.

    Returns:
        The share of the interactions that the most popular item has.

    Raises:
        ConfigError: an option has a value that cannot work, or the folder holds something.
    """
    config = validated(config)
    per_user, per_item = plan_of(config).counts, np.zeros(config.items, dtype=np.int64)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    if config.output.suffix == ".parquet":
        logs = interactions(config)
        logs.to_parquet(config.output, index=False)
        per_item += _per_item(config, logs)
    else:
        _require_empty(config.output)
        for counts in _of_blocks(config, partial(_write_block, config)):
            per_item += counts
    share = float(per_item.max() / config.interactions)
    print(
        f"{config.interactions} interactions of {np.count_nonzero(per_user)} users and {np.count_nonzero(per_item)} "
        f"items in {config.output}: the most popular item has {share:.2%} of them, the most active user "
        f"{per_user.max()}, the median user {int(np.median(per_user))}"
    )
    return share


def interactions(config: SyntheticConfig) -> pd.DataFrame:
    """Columns user, item (int64), rating (1 to 10), timestamp (seconds), perhaps hour; in order of time, no pair twice.

    Raises:
        ConfigError: more interactions are asked for than there are pairs of users and items.
    """
    logs = pd.concat(list(_of_blocks(config, partial(drawn_block, config))), ignore_index=True)
    return logs.sort_values("timestamp", kind="stable", ignore_index=True)


def _write_block(config: SyntheticConfig, number: int) -> NDArray[np.int64]:
    """Write a block as a file of the output folder; returns how often each item is in it, (items,)."""
    logs = drawn_block(config, number)
    logs.to_parquet(config.output / f"part-{number:05d}.parquet", index=False)
    return _per_item(config, logs)


def _per_item(config: SyntheticConfig, logs: pd.DataFrame) -> NDArray[np.int64]:
    """How often each item is in some logs, (items,)."""
    return np.bincount(logs["item"], minlength=config.items)


def _require_empty(folder: Path) -> None:
    """Make the folder; refuse one in which files of another run could lie beside those of this one."""
    folder.mkdir(exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(f"--output = {folder}: the folder holds files: name another one, or empty it")


def _of_blocks(config: SyntheticConfig, work: Callable[[int], Result]) -> Iterator[Result]:
    """What work makes of the number of each block, in their order; processes of its own need a work to be pickled."""
    numbers = range(plan_of(config).blocks)
    processes = min(config.processes, len(numbers))
    if processes == 1:
        yield from map(work, tqdm(numbers, desc="blocks", disable=None))
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from tqdm(pool.map(work, numbers), total=len(numbers), desc="blocks", disable=None)


if __name__ == "__main__":
    try:
        generate(tyro.cli(SyntheticConfig))
    except ConfigError as error:
        raise SystemExit(str(error)) from None
