"""Which held-out pairs a batch erases, against a naive search; batch after batch."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.pipelines.held_out import HeldOutLookup
from ifru_dist.sharding.worker import Targets
from ifru_dist.workspace.commits import commit_erasure
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace

SIZES = [(5, 4), (5, 4, 2)]
USERS, ITEMS, NONE = st.integers(0, 4), st.integers(5, 8), st.just(-1)
TARGETS = st.lists(
    st.tuples(USERS, ITEMS) | st.tuples(USERS, NONE) | st.tuples(NONE, ITEMS) | st.tuples(NONE, NONE), max_size=6
)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.sampled_from(SIZES),
    pairs=st.integers(0, 20),
    batches=st.lists(TARGETS, min_size=1, max_size=3),
)
def test_batches_erase_what_a_naive_search_erases(
    seed: int, sizes: tuple[int, ...], pairs: int, batches: list[list[tuple[int, int]]]
) -> None:
    dataset = random_dataset(seed, sizes, n_held_out=pairs)
    left = {part: list(enumerate(map(tuple, getattr(dataset, part).rows.tolist()))) for part in ("valid", "test")}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "ws")
        version = trained_workspace(workspace, dataset, random_embeddings(seed, sum(sizes)))
        lookup = HeldOutLookup()
        for asked in batches:
            known = [t for t in asked if not set(t) & set(version.forgotten_rows().tolist())]
            forgotten = sorted({max(t) for t in known if (t[0] < 0) != (t[1] < 0)})
            user, item = (np.array([t[side] for t in known], np.int64) for side in (0, 1))
            found = lookup.erasure(version, Targets(user=user, item=item), np.array(forgotten, np.int64))

            hit = {part: [at for at, rows in left[part] if rows[:2] in known] for part in left}
            gone = [rows for part in left for _, rows in left[part] if rows[:2] in known or set(rows) & set(forgotten)]
            assert {part: positions.tolist() for part, positions in found.positions.items()} == hit
            assert [tuple(rows) for rows in found.rows.tolist()] == gone
            held = {rows[:2] for pairs_left in left.values() for _, rows in pairs_left}
            assert found.named.tolist() == [target in held for target in known]

            changes = {"forgotten": np.array(forgotten, np.int64), "held_out": found.positions}
            commit_erasure(version, erasure([], [], random_embeddings(0, 0), **changes))
            version = open_version(workspace, check_content=True)
            for part in left:
                left[part] = [
                    (at, rows) for at, rows in left[part] if rows[:2] not in known and not set(rows) & set(forgotten)
                ]
                assert [tuple(rows) for rows in version.held_out(part).rows.tolist()] == [r for _, r in left[part]]
