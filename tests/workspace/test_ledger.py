from pathlib import Path

from ifru_dist.workspace.files import open_arrow
from ifru_dist.workspace.keys import KEY_BYTES, keyed_digest
from ifru_dist.workspace.ledger import LedgerEntry, read_deliveries, read_ledger, write_requests
from ifru_dist.workspace.suppression import write_suppression

_KEY = bytes(KEY_BYTES)


_ROWS = {1: "applied", 2: "rejected", 3: "not_found"}


def _entry(name: str, status: str, digest: bytes) -> LedgerEntry:
    return LedgerEntry(request_id=name, scope="user", digest=digest, status=status, interactions=3, reason="why")


def test_requests_come_back_as_written_with_the_version_of_those_that_were_applied(tmp_path: Path) -> None:
    first, second = bytes([1] * 32), bytes([2] * 32)
    entries = [_entry("a", "applied", first), _entry("b", "not_found", second)]
    files = [
        write_requests(tmp_path, entries, version=5),
        write_requests(tmp_path, [_entry("c", "applied", second)], 6),
    ]
    table = open_arrow(tmp_path, files[0]).read_all()
    assert table.column("version").to_pylist() == [5, 5]
    assert table.column("status").to_pylist() == ["applied", "not_found"]
    assert read_ledger(tmp_path, files, []).requests == {("a", first): 5, ("b", second): None, ("c", second): 6}


def test_a_request_that_comes_again_is_known_and_stays_applied(tmp_path: Path) -> None:
    digest = bytes([1] * 32)
    applied, again, other = _entry("a", "applied", digest), _entry("a", "duplicate", digest), _entry("b", "x", digest)
    files = [write_requests(tmp_path, [applied], 5), write_requests(tmp_path, [again], 6)]
    ledger = read_ledger(tmp_path, files, [])
    assert ledger.applied("a", digest) == 5
    assert not ledger.lacks([again, applied])
    assert ledger.lacks([again, other])
    ledger.add([other], [], 7)
    assert not ledger.lacks([other])
    assert ledger.applied("b", digest) is None


def test_rejected_requests_of_a_file_are_not_settled_when_it_comes_again(tmp_path: Path) -> None:
    entries = [_entry("a", status, bytes(32))._replace(delivery="d", row=row) for row, status in _ROWS.items()]
    files = [write_requests(tmp_path, entries, 5)]
    found = read_deliveries(tmp_path, files, ["d"], read_ledger(tmp_path, files, []))
    assert {row: settled.status for (_, row), settled in found.items()} == {1: "applied", 3: "not_found"}


def test_a_duplicate_names_the_version_of_the_request_that_it_repeats(tmp_path: Path) -> None:
    first = _entry("a", "applied", bytes(32))
    again = _entry("a", "duplicate", bytes(32))._replace(delivery="d", row=1)
    files = [write_requests(tmp_path, [first], 5), write_requests(tmp_path, [again], 6)]
    ledger = read_ledger(tmp_path, files, [])
    (settled,) = read_deliveries(tmp_path, files, ["d"], ledger).values()
    assert settled == ledger.settled(again)
    assert settled.version == 5


def test_what_was_erased_is_known_by_itself_its_user_or_its_item(tmp_path: Path) -> None:
    erased = [
        keyed_digest(_KEY, *what) for what in (("interaction", "u", "i"), ("user", "v", None), ("item", None, "j"))
    ]
    files = [write_suppression(tmp_path, erased[:2], 5), write_suppression(tmp_path, erased[2:], 6)]
    ledger = read_ledger(tmp_path, [], files)
    assert ledger.suppressed == set(erased)
    assert ledger.was_erased(_KEY, "interaction", "u", "i")
    assert ledger.was_erased(_KEY, "interaction", "v", "i")
    assert ledger.was_erased(_KEY, "interaction", "u", "j")
    assert ledger.was_erased(_KEY, "user", "v", None)
    assert ledger.was_erased(_KEY, "item", None, "j")
    assert not ledger.was_erased(_KEY, "interaction", "u", "k")
    assert not ledger.was_erased(_KEY, "user", "u", None)
    assert not ledger.was_erased(bytes([1] * KEY_BYTES), "user", "v", None)


def test_files_hold_digests_in_an_order_that_tells_nothing(tmp_path: Path) -> None:
    digests = [bytes([number] * 32) for number in (3, 1, 2)]
    assert write_suppression(tmp_path, digests, 5) == write_suppression(tmp_path, digests[::-1], 5)


def test_an_empty_batch_can_be_written(tmp_path: Path) -> None:
    ledger = read_ledger(tmp_path, [write_requests(tmp_path, [], 1)], [write_suppression(tmp_path, [], 1)])
    assert (ledger.requests, ledger.suppressed) == ({}, set())
