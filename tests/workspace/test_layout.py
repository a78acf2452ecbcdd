from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifru_dist.workspace.layout import Layout
from tests.workspace.datasets import table_names


@st.composite
def _layouts(draw: Any) -> Layout:
    """Layouts of two to four tables, some of them empty."""
    sizes = tuple(draw(st.lists(st.integers(0, 20), min_size=2, max_size=4)))
    return Layout(draw(st.integers(1, 9)), sizes, table_names(len(sizes)))


_LAYOUTS = _layouts()


@given(_LAYOUTS)
def test_every_row_is_in_one_partition(layout: Layout) -> None:
    parts = [layout.partition_rows(partition) for partition in range(layout.partitions)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(layout.n_rows))
    for partition, rows in enumerate(parts):
        assert (layout.partition_of(rows) == partition).all()
        assert rows.tolist() == sorted(rows.tolist())
        sizes = [layout.partition_size(table, partition) for table in range(len(layout.tables))]
        assert sizes == np.bincount(layout.table_of(rows), minlength=len(sizes)).tolist()


@given(_LAYOUTS)
def test_a_global_row_is_its_table_s_offset_and_the_row_in_it(layout: Layout) -> None:
    rows = np.arange(layout.n_rows)
    tables = layout.table_of(rows)
    assert tables.tolist() == [table for table, size in enumerate(layout.sizes) for _ in range(size)]
    assert (np.array(layout.offsets)[tables] + layout.local(rows) == rows).all()
    for table in range(len(layout.tables)):
        assert layout.other_tables(table) == tuple(sorted({*range(len(layout.tables))} - {table}))
        assert rows[layout.table_range(table)].tolist() == rows[tables == table].tolist()


@given(_LAYOUTS)
def test_files_hold_one_partition_after_the_other(layout: Layout) -> None:
    for table, offset in enumerate(layout.offsets):
        order, bounds = layout.stored_order(table), layout.bounds(table)
        assert bounds[-1] == len(order) == layout.sizes[table]
        for partition in range(layout.partitions):
            rows = layout.partition_rows(partition)
            mine = rows[layout.table_of(rows) == table] - offset
            assert order[bounds[partition] : bounds[partition + 1]].tolist() == mine.tolist()


def test_sizes_that_do_not_fit_the_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tables \('user', 'item'\) with sizes \(5, 6, 2\)"):
        Layout(4, (5, 6, 2))
