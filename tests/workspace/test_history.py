from pathlib import Path

import pyarrow as pa

from ifru_dist.workspace.files import write_table
from ifru_dist.workspace.history import find_events, wanted_digests
from ifru_dist.workspace.keys import keyed_digest

KEY = bytes(range(32))


def _columns(digests: list[bytes]) -> dict[str, pa.Array]:
    """A ledger file as the first release wrote it."""
    n_rows = len(digests)
    return {
        "request_id": pa.array([f"id-{row}" for row in range(n_rows)]),
        "scope": pa.repeat("user", n_rows),
        "digest": pa.array(digests, pa.binary(32)),
        "status": pa.repeat("applied", n_rows),
        "interactions": pa.array(range(n_rows), pa.int64()),
        "reason": pa.repeat("", n_rows),
        "version": pa.repeat(pa.scalar(3, pa.int64()), n_rows),
    }


def test_ledgers_of_earlier_and_later_releases_are_read_together(tmp_path: Path) -> None:
    digests = [keyed_digest(KEY, "user", name, None) for name in "abc"]
    older = write_table(tmp_path, "requests/batch", _columns(digests))
    times = {"received": pa.repeat("then", 3), "finished": pa.repeat("later", 3), "more": pa.repeat(1, 3)}
    newer = write_table(tmp_path, "requests/batch", _columns(digests) | times)
    events = find_events(tmp_path, [older, newer], digests=wanted_digests(KEY, "b", None))
    assert [(event.request_id, event.received, event.finished) for event in events] == [
        ("id-1", None, None),
        ("id-1", "then", "later"),
    ]
    assert len(find_events(tmp_path, [older, newer], request_id="id-2")) == 2
    assert len(find_events(tmp_path, [older, newer])) == 6
    assert find_events(tmp_path, [older], digests=set()) == []


def test_the_digests_are_those_of_all_requests_that_concern_what_is_named() -> None:
    user, item = keyed_digest(KEY, "user", "u", None), keyed_digest(KEY, "item", None, "i")
    assert wanted_digests(KEY, "u", None) == {user}
    assert wanted_digests(KEY, None, "i") == {item}
    assert wanted_digests(KEY, "u", "i") == {user, item, keyed_digest(KEY, "interaction", "u", "i")}
