import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.tables import read_all, read_delta, read_partitions, write_base, write_delta
from tests.workspace.datasets import random_embeddings, table_names


@given(
    partitions=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=4).map(tuple),
    dim=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_rows_are_the_base_with_every_delta_applied_in_turn(
    partitions: int, sizes: tuple[int, ...], dim: int, data: st.DataObject
) -> None:
    layout = Layout(partitions, sizes, table_names(len(sizes)))
    expected = random_embeddings(0, layout.n_rows, dim)
    every_row = st.integers(0, layout.n_rows - 1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        base, deltas = write_base(root, layout, expected), []
        for seed, changed in enumerate(data.draw(st.lists(st.sets(every_row), max_size=4))):
            rows = np.array(sorted(changed), dtype=np.int64)
            values = random_embeddings(seed + 1, len(rows), dim)
            deltas.append(write_delta(root, layout, rows, values))
            expected[rows] = values
            stored_rows, stored_values = read_delta(root, layout, deltas[-1])
            np.testing.assert_array_equal(stored_rows, rows)
            np.testing.assert_array_equal(stored_values, values)
        np.testing.assert_array_equal(read_all(root, layout, base, deltas), expected)
        chosen = data.draw(st.lists(st.integers(0, partitions - 1), unique=True))
        rows = np.concatenate([np.empty(0, np.int64), *(layout.partition_rows(p) for p in chosen)])
        np.testing.assert_array_equal(read_partitions(root, layout, base, deltas, chosen), expected[rows])


def test_a_delta_is_as_large_as_the_rows_that_changed(tmp_path: Path) -> None:
    small, large = (Layout(4, (size, size)) for size in (100, 100_000))
    rows, values = np.arange(3), random_embeddings(1, 3, 48)
    sizes = {write_delta(tmp_path, layout, rows, values).size_bytes for layout in (small, large)}
    assert len(sizes) == 1
