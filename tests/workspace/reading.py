"""Erasing from a workspace at random, and comparing all that two versions read."""

import numpy as np
import pyarrow as pa

from ifru_dist.interactions import Interactions
from ifru_dist.workspace.commits import commit_erasure
from ifru_dist.workspace.keys import keyed_digest
from ifru_dist.workspace.ledger import Ledger, LedgerEntry, read_ledger
from ifru_dist.workspace.version import Version, open_version
from tests.workspace.datasets import erasure, random_embeddings

PARTITIONS = 5


def erase(version: Version, seed: int, examples: np.ndarray, forgotten: np.ndarray, positions: np.ndarray) -> Version:
    """Erase examples, all of some rows, and held-out pairs by their positions in the stored file."""
    data = version.all_examples()
    touched = np.isin(data.rows, forgotten).any(axis=1) & version.alive()
    gone = np.union1d(np.intersect1d(examples, np.flatnonzero(version.alive())), np.flatnonzero(touched))
    rows = np.union1d(np.unique(data.rows[gone]), forgotten)
    values = random_embeddings(seed, len(rows))
    held_out = {part: version.held_out_left(part)[0] for part in ("valid", "test")}
    held_out = {part: left[np.isin(left, positions)] for part, left in held_out.items()}
    digests = [keyed_digest(bytes(32), "user", str(seed), str(number)) for number in range(seed % 3)]
    requests = [
        LedgerEntry(request_id=f"r{seed}", scope="user", digest=digest, status="applied", interactions=1)
        for digest in digests
    ]
    new = np.setdiff1d(forgotten, version.forgotten_rows())
    changes = {"forgotten": new, "held_out": held_out, "requests": requests, "suppressed": digests}
    commit_erasure(version, erasure(gone.tolist(), rows.tolist(), values, **changes))
    return open_version(version.workspace, check_content=True)


def same(one: Interactions, other: Interactions) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.labels, other.labels)


def ledger(version: Version) -> Ledger:
    return read_ledger(version.workspace.root, version.manifest.requests, version.manifest.suppression)


def assert_reads_the_same(before: Version, after: Version) -> None:
    """Two versions, of one workspace or of two with the same data, read the same."""
    assert same(before.train(), after.train())
    assert np.array_equal(before.train().ids, after.train().ids)
    assert np.array_equal(before.alive(), after.alive())
    assert before.erased_ids().tolist() == after.erased_ids().tolist()
    assert before.forgotten_rows().tolist() == after.forgotten_rows().tolist()
    assert before.known_rows().tolist() == after.known_rows().tolist()
    assert np.array_equal(before.embeddings(), after.embeddings())
    for table in range(len(before.layout.tables)):
        assert before.ids(table).equals(after.ids(table))
        wanted = before.ids(table).cast(pa.large_string())
        assert before.find_rows(table, wanted).tolist() == after.find_rows(table, wanted).tolist()
    for part in ("valid", "test"):
        assert same(before.held_out(part), after.held_out(part))
    for partitions in ([0], [4, 2], range(PARTITIONS)):
        one, other = before.mapped_incidence(partitions).whole(), after.mapped_incidence(partitions).whole()
        assert all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())
        assert np.array_equal(before.embeddings_of(partitions), after.embeddings_of(partitions))
    assert ledger(before) == ledger(after)
