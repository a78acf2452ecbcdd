"""Some of an array found by search, against passes over all of it."""

import pytest
import torch

from ifru_dist.influence.shard import distinct, places_of, row_counts

SIZE = 1000


@pytest.mark.parametrize("count", [0, 1, 20, 900])
def test_flagged_edges_are_counted_by_row_whether_they_are_few_or_many(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    degrees = torch.randint(0, 9, (250,), generator=generator)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), degrees.cumsum(0)])
    flag = torch.zeros(int(indptr[-1]), dtype=torch.bool)
    flag[torch.randperm(len(flag), generator=generator)[:count]] = True
    expected = [int(part.sum()) for part in torch.split(flag, degrees.tolist())]
    assert row_counts(indptr, flag).tolist() == expected
    assert sum(expected) == count


@pytest.mark.parametrize("count", [0, 1, 20, 700])
def test_rows_are_found_whether_they_are_few_or_many(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    wanted = torch.randint(0, SIZE, (count, 2), generator=generator)
    rows = distinct(wanted.flatten(), SIZE)
    assert rows.tolist() == sorted(set(wanted.flatten().tolist()))
    by_owner = rows[torch.randperm(len(rows), generator=generator)]
    places = places_of(wanted, by_owner, SIZE)
    assert places.shape == wanted.shape
    assert torch.equal(by_owner[places], wanted)
