from pathlib import Path

from ifru_dist.workspace.files import open_arrow
from ifru_dist.workspace.keys import KEY_BYTES, keyed_digest
from ifru_dist.workspace.ledger import LedgerEntry, read_ledger, write_requests
from ifru_dist.workspace.suppression import write_suppression

_KEY = bytes(KEY_BYTES)


def _entry(name: str, status: str, digest: bytes) -> LedgerEntry:
    return LedgerEntry(request_id=name, scope="user", digest=digest, status=status, interactions=3, reason="why")


def test_requests_come_back_as_written_and_only_applied_ones_count(tmp_path: Path) -> None:
    first, second = bytes([1] * 32), bytes([2] * 32)
    entries = [_entry("a", "applied", first), _entry("b", "not_found", second)]
    files = [
        write_requests(tmp_path, entries, version=5),
        write_requests(tmp_path, [_entry("c", "applied", second)], 6),
    ]
    table = open_arrow(tmp_path, files[0]).read_all()
    assert table.column("version").to_pylist() == [5, 5]
    assert table.column("status").to_pylist() == ["applied", "not_found"]
    assert read_ledger(tmp_path, files, []).applied == {("a", first): 5, ("c", second): 6}


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
    assert (ledger.applied, ledger.suppressed) == ({}, set())
