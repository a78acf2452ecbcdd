"""Generator of realistic interactions, for the demo and for benchmarks.

What is planted: every user and item has a bias and a factor, and their dot product decides, with logistic noise, how a
user rates an item. Item popularity follows Zipf's law and user activity is log-normal. Ratings above 5 have the
probability sigmoid(planted score), so a threshold at 5 gives labels that a factor model can learn. With --hours a third
field decides, too: every hour has a bias, and a factor that meets one of the item's.

    python -m benchmarks.synthetic --interactions 200000 --seed 7 --output interactions.parquet
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError

_FACTORS = 4
_FACTOR_STD = 0.95  # of one coordinate: a dot product of 4 then has a standard deviation of 1.8
_BIAS_STD = 0.7
_HOUR_FACTOR_STD = 0.7
_ACTIVITY_SIGMA = 1.0
_RATING_PER_LOGIT = 1.2
_FIRST_SECOND = 1_577_836_800  # 2020-01-01 UTC
_SPAN_S = 2 * 365 * 86_400
_MAX_ROUNDS = 20  # of drawing pairs with replacement, until enough of them are distinct


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Generate interactions with planted preferences, as Parquet with columns user, item, rating, timestamp.

    With --hours there is a column hour, too.
    """

    output: Path
    """File to write."""
    interactions: Annotated[int, Field(ge=1)] = 200_000
    """Distinct pairs of a user and an item."""
    users: Annotated[int, Field(ge=1)] = 4_000
    """Users; the least active may end without an interaction."""
    items: Annotated[int, Field(ge=1)] = 3_000
    """Items; the least popular may end without an interaction."""
    popularity_exponent: Annotated[float, Field(ge=0, le=2)] = 1.0
    """The item of popularity rank r is drawn with a probability proportional to r ** -exponent."""
    hours: Annotated[int, Field(ge=0)] = 0
    """Values of a further column hour, for models of more than two fields; 0: no such column."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of everything that is drawn."""


def generate(config: SyntheticConfig) -> None:
    """Write the interactions of a config to its output.

    Raises:
        ConfigError: an option has a value that cannot work.
    """
    config = validated(config)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    interactions(config).to_parquet(config.output, index=False)


def interactions(config: SyntheticConfig) -> pd.DataFrame:
    """Columns user, item (int64), rating (1 to 10), timestamp (seconds), perhaps hour; in order of time, no pair twice.

    Raises:
        ConfigError: more interactions are asked for than users and items of such skew can have.
    """
    rng = np.random.default_rng(config.seed)
    users, items = _distinct_pairs(config, rng)
    logits = _planted_scores(config, users, items, rng) + rng.logistic(size=config.interactions)
    hours, effects = _planted_hours(config, items) if config.hours else (None, 0.0)
    logits += effects
    logs = pd.DataFrame(
        {
            "user": users,
            "item": items,
            "rating": np.clip(np.ceil(5 + _RATING_PER_LOGIT * logits), 1, 10).astype(np.int64),
            "timestamp": np.sort(rng.integers(_FIRST_SECOND, _FIRST_SECOND + _SPAN_S, config.interactions)),
        }
    )
    return logs if hours is None else logs.assign(hour=hours)


def _distinct_pairs(config: SyntheticConfig, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and items (interactions,) of distinct pairs, in random order."""
    activity = rng.lognormal(sigma=_ACTIVITY_SIGMA, size=config.users)
    popularity = rng.permutation(np.arange(1, config.items + 1) ** -config.popularity_exponent)
    size = config.interactions + config.interactions // 4
    keys = np.empty(0, dtype=np.int64)
    for _ in range(_MAX_ROUNDS):
        drawn = _draw(activity, size, rng) * np.int64(config.items) + _draw(popularity, size, rng)
        keys = pd.unique(np.concatenate([keys, drawn]))
        if len(keys) >= config.interactions:
            return np.divmod(rng.permutation(keys[: config.interactions]), config.items)
    raise ConfigError(
        f"--interactions = {config.interactions}: {config.users} users and {config.items} items of this skew gave only "
        f"{len(keys)} distinct pairs: raise --users or --items, or lower --popularity-exponent"
    )


def _draw(weights: NDArray[np.floating], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (size,), each drawn with a probability proportional to its weight."""
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")


def _planted_scores(
    config: SyntheticConfig, users: NDArray[np.int64], items: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Log-odds (interactions,) that a user rates an item above 5."""
    user_factors = rng.normal(scale=_FACTOR_STD, size=(config.users, _FACTORS))
    item_factors = rng.normal(scale=_FACTOR_STD, size=(config.items, _FACTORS))
    user_bias = rng.normal(scale=_BIAS_STD, size=config.users)
    item_bias = rng.normal(scale=_BIAS_STD, size=config.items)
    scores = user_bias[users] + item_bias[items]
    for factor in range(_FACTORS):  # one at a time, so that no (interactions, factors) array is needed
        scores += user_factors[users, factor] * item_factors[items, factor]
    return scores


def _planted_hours(config: SyntheticConfig, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Hours (interactions,) and what they add to the planted scores; all else is as without hours."""
    rng = np.random.default_rng([config.seed, 1])
    hours = rng.integers(0, config.hours, config.interactions)
    effects = rng.normal(scale=_BIAS_STD, size=config.hours)[hours]
    hour_factors = rng.normal(scale=_HOUR_FACTOR_STD, size=(config.hours, _FACTORS))
    item_factors = rng.normal(scale=_HOUR_FACTOR_STD, size=(config.items, _FACTORS))
    for factor in range(_FACTORS):
        effects += hour_factors[hours, factor] * item_factors[items, factor]
    return hours, effects


if __name__ == "__main__":
    try:
        generate(tyro.cli(SyntheticConfig))
    except ConfigError as error:
        raise SystemExit(str(error)) from None
