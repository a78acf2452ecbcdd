"""From requests to examples: what workers find against a naive search, and what becomes of every kind of request."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.pipelines.requests import Request, with_integer_ids
from ifru_dist.pipelines.routing import Routed, Router
from ifru_dist.sharding.worker import Targets, Worker
from ifru_dist.workspace.commits import Erasure, commit_erasure
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.ledger import Ledger, read_ledger
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version
from tests.pipelines.small import BUSY, SIZES, one_torch_thread, pair, small_interactions, small_workspace
from tests.pipelines.small import whole_item as item_row
from tests.pipelines.small import whole_user as user_row
from tests.sharding.gangs import plans
from tests.workspace.datasets import erasure, random_dataset, random_embeddings, trained_workspace
from tests.workspaces import user_id

NONE_YET = Ledger({}, set())
ROWS = small_interactions().rows


def examples_of(*pairs: np.ndarray) -> list[int]:
    """Ids of the examples with one of these row pairs."""
    return [example for example, rows in enumerate(ROWS.tolist()) if rows in [list(rows) for rows in pairs]]


ONCE = next(rows for rows in ROWS if len(examples_of(rows)) == 1)
TWICE = ROWS[0]
STRANGERS = np.array(
    next((u, i) for u in range(SIZES[0]) for i in range(SIZES[0], sum(SIZES)) if not examples_of(np.array([u, i])))
)
"""A user and an item that never met."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_workspace(tmp_path_factory.mktemp("routing") / "ws")


def ask(row: dict[str, Any], request_id: str | None = None) -> Request:
    return Request(request_id, **row)


def router_of(version: Version, requests: list[Request], ledger: Ledger = NONE_YET) -> Router:
    return Router(version, ledger, load_key(version.workspace.default_key_file), requests)


def route(version: Version, requests: list[Request], ledger: Ledger = NONE_YET, workers: int = 2) -> Routed:
    router = router_of(version, requests, ledger)
    return router.route([Worker(plan).find(router.targets) for plan in plans(version, workers)])


def erase(version: Version, routed: Routed) -> tuple[Version, Ledger]:
    """The version and the ledger after a batch; the model stays as it is."""
    batch = Erasure(
        examples=routed.examples,
        rows=np.empty(0, np.int64),
        values=np.empty((0, 4), np.float32),
        requests=routed.entries,
        suppressed=routed.suppressed,
        forgotten=routed.forgotten,
        held_out=routed.held_out.positions,
        summary={},
    )
    with version.workspace.lock("test"):
        manifest = commit_erasure(version, batch)
    root = version.workspace.root
    return open_version(version.workspace), read_ledger(root, manifest.requests, manifest.suppression)


def statuses(routed: Routed) -> list[str]:
    return [entry.status for entry in routed.entries]


# ------------------------------------------------------------------------------------------------ what workers find


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
    examples=st.integers(0, 60),
    partitions=st.integers(1, 8),
    data=st.data(),
)
def test_workers_find_what_a_naive_search_finds(
    seed: int, sizes: tuple[int, ...], examples: int, partitions: int, data: st.DataObject
) -> None:
    workers = data.draw(st.integers(1, partitions), label="workers")
    users = st.integers(0, sizes[0] - 1)
    items = st.integers(sizes[0], sizes[0] + sizes[1] - 1)
    asked = data.draw(
        st.lists(
            st.tuples(users, items) | st.tuples(users, st.just(-1)) | st.tuples(st.just(-1), items | st.just(-1)),
            max_size=6,
        ),
        label="targets",
    )
    gone = data.draw(st.lists(st.integers(0, examples - 1), unique=True, max_size=5) if examples else st.just([]))
    user, item = (np.array([target[side] for target in asked], np.int64) for side in (0, 1))
    targets = Targets(user=user, item=item)
    dataset = random_dataset(seed, sizes, examples)
    with tempfile.TemporaryDirectory() as folder:
        version = trained_workspace(
            Workspace(Path(folder) / "ws"), dataset, random_embeddings(seed, sum(sizes)), partitions
        )
        commit_erasure(version, erasure(sorted(gone), [], np.empty((0, 4), np.float32)))
        version = open_version(version.workspace)
        parts = [Worker(plan).find(targets) for plan in plans(version, workers)]
    found = [
        (int(request), int(example), tuple(rows))
        for part in parts
        for request, example, rows in zip(part.request, part.example, part.rows.tolist(), strict=True)
    ]
    expected = [
        (request, example, tuple(rows))
        for request, (u, i) in enumerate(asked)
        for example, rows in enumerate(dataset.train.rows.tolist())
        if example not in gone and (u, i) != (-1, -1) and u in (-1, rows[0]) and i in (-1, rows[1])
    ]
    assert sorted(found) == expected


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_the_batch_does_not_depend_on_the_number_of_workers(version: Version, workers: int) -> None:
    requests = [ask(user_row(BUSY)), ask(pair(ONCE)), ask(item_row(2)), ask(pair(TWICE))]
    routed, single = route(version, requests, workers=workers), route(version, requests, workers=1)
    assert routed.examples.tolist() == single.examples.tolist()
    assert routed.rows.tolist() == single.rows.tolist()
    assert (routed.entries, routed.suppressed) == (single.entries, single.suppressed)


# ------------------------------------------------------------------------------------------- what becomes of requests


def test_a_pair_goes_with_all_its_duplicates(version: Version) -> None:
    routed = route(version, [ask(pair(ONCE)), ask(pair(TWICE))])
    expected = examples_of(ONCE, TWICE)
    assert len(expected) >= 3
    assert routed.examples.tolist() == expected
    assert routed.rows.tolist() == ROWS[expected].tolist()
    assert [entry.interactions for entry in routed.entries] == [1, len(expected) - 1]
    assert routed.counts() == {"received": 2, "applied": 2, "duplicate": 0, "not_found": 0, "rejected": 0}


@pytest.mark.parametrize("table", [0, 1])
def test_a_whole_user_or_item(version: Version, table: int) -> None:
    row = int(TWICE[table])
    routed = route(version, [ask(user_row(row) if table == 0 else item_row(row - SIZES[0]))])
    expected = np.flatnonzero(ROWS[:, table] == row)
    assert routed.examples.tolist() == expected.tolist()
    assert routed.rows.tolist() == ROWS[expected].tolist()
    assert routed.entries[0].interactions == len(expected)


def test_overlapping_requests_erase_each_example_once(version: Version) -> None:
    user, item = int(TWICE[0]), int(TWICE[1])
    routed = route(version, [ask(pair(TWICE)), ask(user_row(user)), ask(item_row(item - SIZES[0]))])
    expected = np.flatnonzero((ROWS[:, 0] == user) | (ROWS[:, 1] == item))
    assert routed.examples.tolist() == expected.tolist()
    assert routed.rows.tolist() == ROWS[expected].tolist()
    assert statuses(routed) == ["applied"] * 3
    assert len(routed.suppressed) == 3


def test_what_is_not_in_the_data(version: Version) -> None:
    unknown = [
        Request(None, "interaction", "no such user", pair(ONCE)["item"]),
        Request(None, "interaction", pair(ONCE)["user"], "no such item"),
        Request(None, "user", "no such user", None),
        Request(None, "interaction", "0" + pair(ONCE)["user"], pair(ONCE)["item"]),
    ]
    routed = route(version, [*unknown, ask(pair(STRANGERS)), ask(pair(ONCE))])
    assert statuses(routed) == ["not_found"] * 5 + ["applied"]
    assert {entry.reason for entry in routed.entries[:4]} == {"its user or item has no training data"}
    assert routed.entries[4].reason == "no interaction matches"
    assert len(routed.examples) == 1
    assert routed.forgotten.tolist() == []
    assert routed.counts() == {"received": 6, "applied": 1, "duplicate": 0, "not_found": 5, "rejected": 0}


def test_settled_only_where_no_row_is_named(version: Version) -> None:
    unknown = Request(None, "user", "no such user", None)
    assert router_of(version, [unknown]).settled
    assert not router_of(version, [unknown, ask(item_row(0))]).settled
    assert statuses(router_of(version, [unknown]).route([])) == ["not_found"]


def test_the_same_deletion_twice_in_a_file(version: Version) -> None:
    routed = route(version, [ask(pair(TWICE), "a"), ask(pair(TWICE), "b"), ask(pair(TWICE)), ask(pair(TWICE), "a")])
    assert statuses(routed) == ["applied", "duplicate", "duplicate", "duplicate"]
    assert {entry.reason for entry in routed.entries[1:]} == {"the same deletion stands earlier in this batch"}
    assert routed.suppressed == [routed.entries[0].digest]


def test_one_id_may_stand_for_several_deletions(version: Version) -> None:
    routed = route(version, [ask(pair(TWICE), "ticket"), ask(pair(ONCE), "ticket"), ask(pair(ONCE), "ticket")])
    assert statuses(routed) == ["applied", "applied", "duplicate"]
    assert routed.examples.tolist() == examples_of(TWICE, ONCE)


def test_what_is_twice_in_a_file_and_not_in_the_data_is_not_found_twice(version: Version) -> None:
    unknown = Request(None, "user", "no such user", None)
    routed = route(version, [unknown, unknown])
    assert statuses(routed) == ["not_found", "not_found"]


def test_entries_hold_no_ids_in_the_clear(version: Version) -> None:
    (entry,) = route(version, [Request(None, "interaction", "Zoe Quux", "Some Film")]).entries
    assert not {"Zoe", "Quux", "Some", "Film"} & set(f"{entry.request_id} {entry.reason}".split())
    assert b"Quux" not in entry.digest
    assert len(entry.digest) == 32
    assert entry.request_id != entry.digest.hex()[:32]


# ------------------------------------------------------------------------------------------------ what was done before


def test_requests_that_come_again(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    first = [ask(pair(TWICE), "a"), ask(pair(ONCE))]
    later, ledger = erase(version, route(version, first))
    again = route(later, [*first, ask(user_row(BUSY), "a")], ledger)
    assert [(entry.status, entry.reason) for entry in again.entries] == [
        ("duplicate", "this request was applied before"),
        ("duplicate", "this request was applied before"),
        ("applied", ""),
    ]
    assert again.suppressed == [again.entries[2].digest]
    under_another_id = route(later, [ask(pair(TWICE), "other")], ledger)
    assert [(entry.status, entry.reason) for entry in under_another_id.entries] == [
        ("duplicate", "this, or its whole user or item, was erased before")
    ]
    assert len(under_another_id.examples) == 0
    assert under_another_id.suppressed == []


@pytest.mark.parametrize("table", [0, 1])
def test_a_pair_that_went_with_its_whole_user_or_item(tmp_path: Path, table: int) -> None:
    version = small_workspace(tmp_path / "ws")
    row = int(TWICE[table])
    whole = ask(user_row(row) if table == 0 else item_row(row - SIZES[0]))
    later, ledger = erase(version, route(version, [whole]))
    routed = route(later, [ask(pair(TWICE)), ask(pair(ONCE)), whole], ledger)
    assert statuses(routed) == ["duplicate", "applied", "duplicate"]
    assert routed.entries[0].reason == "this, or its whole user or item, was erased before"


def test_a_request_that_found_nothing_may_come_again(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    nothing = ask(pair(STRANGERS), "a")
    later, ledger = erase(version, route(version, [nothing, ask(pair(ONCE), "b")]))
    again = route(later, [nothing, ask(pair(TWICE), "a")], ledger)
    assert statuses(again) == ["not_found", "applied"]


@pytest.mark.parametrize("request_id", [None, "later"])
def test_a_user_whose_interactions_went_one_by_one_can_still_be_forgotten(
    tmp_path: Path, request_id: str | None
) -> None:
    version = small_workspace(tmp_path / "ws")
    mine = ROWS[ROWS[:, 0] == BUSY]
    later, ledger = erase(version, route(version, [ask(pair(rows)) for rows in mine]))
    routed = route(later, [ask(user_row(BUSY), request_id)], ledger)
    (entry,) = routed.entries
    assert (entry.status, entry.interactions, len(routed.examples)) == ("applied", 0, 0)
    assert (routed.forgotten.tolist(), routed.users.tolist()) == ([BUSY], [BUSY])
    assert routed.suppressed == [entry.digest]
    assert routed.erases


# ------------------------------------------------------------------------------------------------------ rows that go


def test_whole_users_and_items_go_with_their_rows(version: Version) -> None:
    item = int(TWICE[1]) - SIZES[0]
    requests = [ask(item_row(item)), ask(user_row(BUSY)), ask(pair(ONCE)), ask(user_row(2)), ask(user_row(BUSY))]
    routed = route(version, [*requests, Request(None, "user", "no such user", None)])
    assert routed.forgotten.tolist() == sorted([2, BUSY, SIZES[0] + item])
    held = version.held_out("test").rows
    gone = np.isin(held, routed.forgotten).any(axis=1) | (held == ONCE).all(axis=1)
    assert 0 < gone.sum() < len(gone)
    assert routed.held_out.rows.tolist() == held[gone].tolist() * 2  # validation and test are the same here
    assert set(routed.users) == {*routed.rows[:, 0], *held[gone][:, 0], 2, BUSY}


def test_a_row_that_never_had_an_interaction_goes_too(version: Version) -> None:
    routed = route(version, [ask(item_row(SIZES[1] - 1))])
    assert [(entry.status, entry.interactions) for entry in routed.entries] == [("applied", 0)]
    assert routed.forgotten.tolist() == [sum(SIZES) - 1]
    assert routed.users.tolist() == []


def test_a_user_and_single_pairs_of_that_user_in_one_file(version: Version) -> None:
    mine, elsewhere = (
        ROWS[ROWS[:, 0] == BUSY][0],
        next(i for i in range(SIZES[0], sum(SIZES)) if i not in ROWS[ROWS[:, 0] == BUSY][:, 1]),
    )
    requests = [ask(pair(mine)), ask(user_row(BUSY)), ask(pair(np.array([BUSY, elsewhere]))), ask(pair(mine))]
    routed = route(version, requests)
    assert statuses(routed) == ["applied", "applied", "not_found", "duplicate"]
    assert routed.examples.tolist() == np.flatnonzero(ROWS[:, 0] == BUSY).tolist()
    assert routed.forgotten.tolist() == [BUSY]


def test_what_was_forgotten_is_known_again_by_its_digest(tmp_path: Path) -> None:
    version = small_workspace(tmp_path / "ws")
    later, ledger = erase(version, route(version, [ask(user_row(BUSY), "a"), ask(item_row(SIZES[1] - 1), "b")]))
    again = [
        ask(user_row(BUSY), "a"),
        ask(user_row(BUSY), "other"),
        ask(item_row(SIZES[1] - 1)),
        ask(pair(np.array([BUSY, SIZES[0] + 3]))),
        ask(pair(np.array([2, sum(SIZES) - 1]))),
    ]
    routed = route(later, [*again, Request(None, "user", "no such user", None)], ledger)
    assert statuses(routed) == ["duplicate"] * 5 + ["not_found"]
    assert (routed.erases, routed.suppressed) == (False, [])
    assert router_of(later, again, ledger).settled


def test_whole_floats_name_integer_ids_and_nothing_else(tmp_path: Path) -> None:
    """pandas writes integers beside empty cells as floats; ids that are texts keep their dots."""
    version = small_workspace(tmp_path / "ws")
    user = str(user_id(3))
    given = [
        Request(None, "interaction", f"{user}.0", "i1.0"),
        Request(None, "user", f"{user}.00", None),
        Request(None, "user", f"{user}.5", None),
        Request(None, "user", user, None),
    ]
    assert [(request.user, request.item) for request in with_integer_ids(given, version)] == [
        (user, "i1.0"),
        (user, None),
        (f"{user}.5", None),
        (user, None),
    ]


def test_a_ticket_that_was_applied_counts_again_once_what_it_names_was_released(version: Version) -> None:
    request = ask(pair(ONCE), "ticket 9")
    (entry,) = route(version, [request]).entries
    assert entry.status == "applied"
    applied: dict[tuple[str, bytes], int | None] = {(entry.request_id, entry.digest): 7}
    (again,) = route(version, [request], Ledger(applied, {entry.digest})).entries
    assert (again.status, again.reason) == ("duplicate", "this request was applied before")
    (released,) = route(version, [request], Ledger(applied, set())).entries
    assert released.status == "applied"
