import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.ingest.loops import set_bits
from ifru_dist.ingest.splitting import Places, Spans, last_of_pairs, part_ends, write_shuffle

_ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=30)


@given(_ROWS, st.booleans())
def test_the_last_row_of_a_pair_stays(rows: list[tuple[int, int, int]], timed: bool) -> None:
    users, items, times = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for position, (user, item, time) in enumerate(rows):
        latest[user, item] = max(latest.get((user, item), (-1, -1)), (time if timed else 0, position))
    expected = sorted(position for _, position in latest.values())
    assert last_of_pairs(users, items, times.astype(float) if timed else None).tolist() == expected


def test_pairs_of_many_ids_do_not_collide() -> None:
    users = np.array([2_000_000_000, 0], np.int32)
    items = np.array([0, 2_000_000_000], np.int32)
    assert last_of_pairs(users, items, None).tolist() == [0, 1]


@pytest.mark.parametrize("n_rows", [1, 10, 1000])
def test_the_shuffle_is_numpy_s_permutation(tmp_path: Path, n_rows: int) -> None:
    write_shuffle(tmp_path / "shuffle.npy", n_rows, seed=1024)
    place = np.load(tmp_path / "shuffle.npy")
    expected = np.random.RandomState(1024).permutation(n_rows)
    assert np.argsort(place).tolist() == expected.tolist()


@given(st.sets(st.integers(0, 300), min_size=1), st.booleans())
def test_places_of_the_rows_that_are_left(positions: set[int], shuffled: bool) -> None:
    left = np.array(sorted(positions))
    words = np.zeros(300 // 64 + 1, np.uint64)
    set_bits(left, words)
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"{index}.npy" for index in range(3)]
        np.save(files[0], words)
        np.save(files[1], np.cumsum([0, *(int(word).bit_count() for word in words[:-1])]))
        write_shuffle(files[2], len(left), seed=3)
        places = Places(files[0], files[1], files[2] if shuffled else None, (0, 0, len(left))).of(left)
    expected = np.random.RandomState(3).permutation(len(left)) if shuffled else np.arange(len(left))
    assert expected[places].tolist() == list(range(len(left)))


@given(st.lists(st.integers(0, 30), min_size=3, max_size=3), st.integers(1, 9))
def test_spans_hold_every_place_once_and_cross_no_part(sizes: list[int], span_rows: int) -> None:
    ends = np.cumsum(sizes).tolist()
    spans = Spans.of((ends[0], ends[1], ends[2]), span_rows)
    held = spans.holding(np.arange(ends[2])).tolist()
    assert held == sorted(held)
    assert set(held) == set(range(len(spans)))
    for part, start, stop in zip(spans.parts, [0, *ends], ends, strict=False):
        assert {held[place] for place in range(start, stop)} == set(part)
        assert sum(stop - start for start, stop in map(spans.bounds, part)) == stop - start
        assert all(stop - start <= span_rows for start, stop in map(spans.bounds, part))


@pytest.mark.parametrize(
    ("n_rows", "shares", "ends"),
    [
        (10, (0.7, 0.1, 0.2), (7, 8, 10)),
        (585_579, (0.6, 0.2, 0.2), (351_347, 468_463, 585_579)),
        (5, (1.0, 0.0, 0.0), (5, 5, 5)),
        (3, (0.34, 0.0, 0.66), (1, 1, 3)),
        (0, (0.6, 0.2, 0.2), (0, 0, 0)),
    ],
)
def test_ends_of_the_parts(n_rows: int, shares: tuple[float, float, float], ends: tuple[int, int, int]) -> None:
    assert part_ends(n_rows, shares) == ends
