"""The batches of a benchmark: users who ask to be forgotten, drawn with a seed by how active they are."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import ConfigError
from ifru_dist.pipelines.requests import Request
from ifru_dist.workspace.version import Version

MOST_USERS = 0.5
"""Share of the users at most that the batches of one cell may take: after more the data would not be what they were."""


class BatchDraw:
    """Draws batches of requests from the users of a version, the same ones for the same seed and size."""

    def __init__(self, version: Version, *, seed: int, activity: float, share: float) -> None:
        """Read the training interactions.

        Args:
            version: the data, of which the model was trained on at least one interaction.
            seed: of everything that is drawn.
            activity: a user is drawn with a probability in proportion to the number of its interactions to this power.
            share: of each user's interactions that goes; 1: the whole user.
        """
        self._seed, self._share = seed, share
        self._ids = [version.ids(table).cast(pa.large_string()) for table in (0, 1)]
        self._offsets = version.layout.offsets
        pairs = version.trained().pairs
        self._pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        counts = np.bincount(self._pairs[:, 0], minlength=version.layout.sizes[0])
        self.users = np.flatnonzero(counts)
        """(n,) rows of the users who have interactions."""
        weights = counts[self.users].astype(np.float64) ** activity
        self._chances = weights / weights.sum()

    def largest(self, batches: int) -> int:
        """Users of a batch at most, where a cell has so many batches."""
        return int(len(self.users) * MOST_USERS) // batches

    def check(self, sizes: Sequence[int], batches: int) -> None:
        """Raise ConfigError when a cell would take too many of the users."""
        largest = self.largest(batches)
        for size in sizes:
            if size > largest:
                raise ConfigError(
                    f"--batch-sizes = {size}: {batches} batches (--repeats and --warm-up) of {size} users are more "
                    f"than half of the {len(self.users)} users that have interactions: ask for batches of {largest} "
                    "users at most, or fewer --repeats"
                )

    def draw(self, size: int, batches: int) -> list[list[Request]]:
        """Batches of ``size`` users each, nobody twice; in the order of the draw the busiest would come first."""
        rng = np.random.default_rng([self._seed, size])
        drawn = rng.choice(self.users, size * batches, replace=False, p=self._chances)
        parts = np.split(rng.permutation(drawn), batches)
        return [self._requests(part, rng) for part in parts]

    def _requests(self, users: NDArray[np.int64], rng: np.random.Generator) -> list[Request]:
        """The requests of a batch of users (size,)."""
        if self._share == 1:
            names = self._ids[0].take(pa.array(users)).to_pylist()
            return [Request(request_id=None, scope="user", user=name, item=None) for name in names]
        pairs = np.concatenate([self._some_pairs(user, rng) for user in users])
        of_users, of_items = (
            self._ids[table].take(pa.array(pairs[:, table] - self._offsets[table])).to_pylist() for table in (0, 1)
        )
        return [
            Request(request_id=None, scope="interaction", user=user, item=item)
            for user, item in zip(of_users, of_items, strict=True)
        ]

    def _some_pairs(self, user: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n, 2) the share of a user's distinct pairs that goes, at least one."""
        first, last = np.searchsorted(self._pairs[:, 0], [user, user + 1])
        pairs = np.unique(self._pairs[first:last], axis=0)
        return rng.choice(pairs, max(1, round(self._share * len(pairs))), replace=False)
