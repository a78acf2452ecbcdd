"""Places of rows against plain copies of all embeddings."""

import torch

from ifru_dist.influence.place import Place

BEFORE = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
POSITIONS = torch.tensor([1, 4, 5, 8])


def moved() -> Place:
    """Rows that have moved by what float32 could not tell."""
    start = Place(BEFORE, POSITIONS)
    return start.at(start.rows + 1e-9)


def test_rows_begin_where_they_were() -> None:
    start = Place(BEFORE, POSITIONS)
    assert torch.equal(start.rows, BEFORE[POSITIONS].double())
    assert not start.change.any()
    assert torch.equal(start.everywhere(), BEFORE.double())


def test_moved_rows_are_elsewhere_and_the_others_are_not() -> None:
    place, expected = moved(), BEFORE.double()
    expected[POSITIONS] += 1e-9
    assert torch.equal(place.everywhere(), expected)
    assert torch.equal(place.change, place.rows - BEFORE[POSITIONS].double())
    assert bool((place.change > 0).all())
    assert torch.equal(place.back().everywhere(), BEFORE.double())


def test_the_same_place_among_more_rows() -> None:
    wider = torch.tensor([0, 1, 4, 5, 7, 8])
    place = moved()
    assert torch.equal(place.among(wider).everywhere(), place.everywhere())
    assert torch.equal(place.among(wider).rows, place.everywhere()[wider])
    assert place.back().among(wider).moved is None
    assert torch.equal(place.among(POSITIONS).rows, place.rows)
