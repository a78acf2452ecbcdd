"""Blocks of generated interactions: users who stand side by side, drawn from seeds of their own.

A block depends on the options and its number alone, so blocks can be drawn in any order and in any process. What they
share (how much each user does, how popular and of which kind the items are) is drawn anew wherever it is needed: memory
grows with users, items and the interactions of a block, never with all interactions.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.errors import ConfigError

_FACTORS = 4
_FACTOR_STD = 0.95  # of one coordinate: a dot product of 4 then has a standard deviation of 1.8
_BIAS_STD = 0.7
_HOUR_FACTOR_STD = 0.7
_ACTIVITY_SIGMA = 1.0
_RATING_PER_LOGIT = 1.2
_FIRST_SECOND = 1_577_836_800  # 2020-01-01 UTC
_SPAN_S = 2 * 365 * 86_400
_ROUNDS = 8  # of drawing with repeats; who then still lacks items draws without
_ACTIVITY, _ITEMS, _HOURS, _BLOCK, _HOURS_OF_BLOCK = range(5)  # streams of random numbers of one seed


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Generate interactions with planted preferences, as Parquet with columns user, item, rating, timestamp.

    With --hours there is a column hour, too.
    """

    output: Path
    """File to write, which is put together in memory; or a folder, whose name does not end with .parquet: it gets a
    file for each block of users, which needs no more memory for more interactions."""
    interactions: Annotated[int, Field(ge=1)] = 200_000
    """Distinct pairs of a user and an item."""
    users: Annotated[int, Field(ge=1)] = 4_000
    """Users; the least active may end without an interaction."""
    items: Annotated[int, Field(ge=1)] = 3_000
    """Items; the least popular may end without an interaction."""
    popularity_exponent: Annotated[float, Field(ge=0, le=2)] = 1.0
    """A user draws the item of popularity rank r with a probability proportional to r ** -exponent among those that it
    has not drawn yet."""
    hours: Annotated[int, Field(ge=0)] = 0
    """Values of a further column hour, for models of more than two fields; 0: no such column."""
    block: Annotated[int, Field(ge=1)] = 1 << 20
    """Interactions of a block of users, about; another block size draws others."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that draw blocks side by side; their number changes nothing in what is drawn."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of everything that is drawn."""


@dataclass(frozen=True)
class Plan:
    """What all blocks share."""

    counts: NDArray[np.int64]
    """(users,) interactions of each user."""
    bounds: NDArray[np.int64]
    """(blocks + 1,) the first user of each block, and the number of users."""
    weights: NDArray[np.float64]
    """(items,) popularity, summing to 1."""
    cumulative: NDArray[np.float64]
    """(items,) its sums, ending at 1."""
    item_bias: NDArray[np.float64]
    """(items,)."""
    item_factors: NDArray[np.float64]
    """(items, factors)."""

    @property
    def blocks(self) -> int:
        """Their number."""
        return len(self.bounds) - 1


@lru_cache(maxsize=1)
def plan_of(config: SyntheticConfig) -> Plan:
    """What the blocks of a config share.

    Raises:
        ConfigError: there are not so many pairs.
    """
    counts = _counts(config)
    before = np.cumsum(counts) - counts
    _, first = np.unique(before // config.block, return_index=True)
    rng = np.random.default_rng([config.seed, _ITEMS])
    weights = rng.permutation(np.arange(1, config.items + 1) ** -config.popularity_exponent)
    weights /= weights.sum()
    cumulative = np.cumsum(weights)
    return Plan(
        counts=counts,
        bounds=np.append(first, config.users),
        weights=weights,
        cumulative=cumulative / cumulative[-1],
        item_bias=rng.normal(scale=_BIAS_STD, size=config.items),
        item_factors=rng.normal(scale=_FACTOR_STD, size=(config.items, _FACTORS)),
    )


def drawn_block(config: SyntheticConfig, number: int) -> pd.DataFrame:
    """The interactions of a block: user, item (int64), rating (1 to 10), timestamp (seconds), perhaps hour.

    In order of time; no pair twice.
    """
    plan, rng = plan_of(config), np.random.default_rng([config.seed, _BLOCK, number])
    first, last = plan.bounds[number : number + 2]
    users, items = _distinct_pairs(plan.counts[first:last], plan, rng)
    logits = _planted_scores(int(last - first), users, items, plan, rng) + rng.logistic(size=len(users))
    hours, effects = _planted_hours(config, items, number) if config.hours else (None, 0.0)
    logits += effects
    logs = pd.DataFrame(
        {
            "user": first + users,
            "item": items,
            "rating": np.clip(np.ceil(5 + _RATING_PER_LOGIT * logits), 1, 10).astype(np.int64),
            "timestamp": np.sort(rng.integers(_FIRST_SECOND, _FIRST_SECOND + _SPAN_S, len(users))),
        }
    )
    return logs if hours is None else logs.assign(hour=hours)


def _counts(config: SyntheticConfig) -> NDArray[np.int64]:
    """Interactions of each user, (users,): by a log-normal activity, nobody more than there are items."""
    if config.interactions > config.users * config.items:
        raise ConfigError(
            f"--interactions = {config.interactions}: {config.users} users and {config.items} items have only "
            f"{config.users * config.items} distinct pairs: raise --users or --items"
        )
    rng = np.random.default_rng([config.seed, _ACTIVITY])
    activity = rng.lognormal(sigma=_ACTIVITY_SIGMA, size=config.users)
    counts, left = np.zeros(config.users, dtype=np.int64), config.interactions
    while left:
        chances = np.where(counts < config.items, activity, 0.0)
        counts += rng.multinomial(left, chances / chances.sum())
        left = int(np.maximum(counts - config.items, 0).sum())
        counts = np.minimum(counts, config.items)
    return counts


def _distinct_pairs(
    counts: NDArray[np.int64], plan: Plan, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """So many items for each user, none twice: the user's place in the block and the item, (sum of counts,) each.

    The first distinct ones of draws with repeats are draws without; where these would take too long, the largest of
    log-weights with Gumbel noise are the same. In random order.
    """
    items, keys, missing = len(plan.weights), np.empty(0, dtype=np.int64), counts
    for _ in range(_ROUNDS):
        owner = np.repeat(np.arange(len(counts)), 2 * missing)
        item = np.searchsorted(plan.cumulative, rng.random(len(owner)), side="right")
        keys = _first_of_each(pd.unique(np.concatenate([keys, owner * items + item])), counts, items)
        missing = counts - np.bincount(keys // items, minlength=len(counts))
        if not missing.any():
            break
    rest = [_without_repeats(int(user), int(missing[user]), keys, plan, rng) for user in np.flatnonzero(missing)]
    return np.divmod(rng.permutation(np.concatenate([keys, *rest])), items)


def _first_of_each(keys: NDArray[np.int64], counts: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """Of keys (n,), user times items plus item, the first so many of each user, by user."""
    keys = keys[np.argsort(keys // items, kind="stable")]
    owner = keys // items
    place = np.arange(len(keys)) - np.searchsorted(owner, np.arange(len(counts)))[owner]
    return keys[place < counts[owner]]


def _without_repeats(
    user: int, count: int, keys: NDArray[np.int64], plan: Plan, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Keys (count,) of further items of a user, whose others are among keys by user."""
    items = len(plan.weights)
    start, end = np.searchsorted(keys, [user * items, (user + 1) * items])  # of each user the keys lie together
    chances = np.log(plan.weights) + rng.gumbel(size=items)
    chances[keys[start:end] - user * items] = -np.inf
    return user * items + np.argpartition(-chances, count - 1)[:count]


def _planted_scores(
    n_users: int, users: NDArray[np.int64], items: NDArray[np.int64], plan: Plan, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Log-odds (interactions,) that a user of the block rates an item above 5."""
    factors, bias = rng.normal(scale=_FACTOR_STD, size=(n_users, _FACTORS)), rng.normal(scale=_BIAS_STD, size=n_users)
    scores = bias[users] + plan.item_bias[items]
    for factor in range(_FACTORS):  # one at a time, so that no (interactions, factors) array is needed
        scores += factors[users, factor] * plan.item_factors[items, factor]
    return scores


def _planted_hours(
    config: SyntheticConfig, items: NDArray[np.int64], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Hours (interactions,) and what they add to the planted scores; all else is as without hours."""
    shared = np.random.default_rng([config.seed, _HOURS])
    bias = shared.normal(scale=_BIAS_STD, size=config.hours)
    hour_factors = shared.normal(scale=_HOUR_FACTOR_STD, size=(config.hours, _FACTORS))
    item_factors = shared.normal(scale=_HOUR_FACTOR_STD, size=(config.items, _FACTORS))
    hours = np.random.default_rng([config.seed, _HOURS_OF_BLOCK, number]).integers(0, config.hours, len(items))
    effects = bias[hours]
    for factor in range(_FACTORS):
        effects += hour_factors[hours, factor] * item_factors[items, factor]
    return hours, effects
