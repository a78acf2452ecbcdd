import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.workspace.dataset import Dataset
from ifru_dist.workspace.graph import edge_schema, partition_edges, write_graph
from ifru_dist.workspace.incidence import Incidence, MappedIncidence
from ifru_dist.workspace.layout import Layout
from tests.workspace.datasets import datasets, random_dataset


def _expected_edges(dataset: Dataset, row: int) -> list[tuple[list[int], float, int]]:
    """(rows of the other tables, label, example) of one row by looking at every example."""
    edges = []
    for example, (rows, label) in enumerate(zip(dataset.train.rows.tolist(), dataset.train.labels, strict=True)):
        if row in rows:
            edges.append(([other for other in rows if other != row], float(label), example))
    return edges


def _edges(incidence: Incidence, position: int) -> list[tuple[list[int], float, int]]:
    edges = slice(incidence.indptr[position], incidence.indptr[position + 1])
    columns = (incidence.others[edges], incidence.label[edges], incidence.example[edges])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(datasets(), st.integers(1, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_incidence_of_any_partitions_is_what_the_examples_say(
    dataset: Dataset, partitions: int, data: st.DataObject
) -> None:
    layout = Layout(partitions, tuple(len(ids) for ids in dataset.ids), dataset.tables)
    chosen = data.draw(st.lists(st.integers(0, partitions - 1), unique=True))
    with tempfile.TemporaryDirectory() as name:
        graph, degrees = write_graph(Path(name), layout, dataset.train)
        incidence = MappedIncidence(Path(name), layout, graph, degrees, chosen, len(dataset.train)).whole()
        counts = partition_edges(Path(name), layout, graph)
    rows = [row for partition in chosen for row in layout.partition_rows(partition).tolist()]
    assert incidence.rows.tolist() == rows
    assert [_edges(incidence, position) for position in range(len(rows))] == [
        _expected_edges(dataset, row) for row in rows
    ]
    assert counts.sum() == len(dataset.tables) * len(dataset.train)
    assert counts[chosen].sum() == len(incidence.example)


def test_with_a_field_of_few_rows_every_example_is_found_from_every_table(tmp_path: Path) -> None:
    dataset = random_dataset(8, sizes=(30, 20, 3), n_train=200)
    layout = Layout(7, (30, 20, 3), dataset.tables)
    graph, degrees = write_graph(tmp_path, layout, dataset.train)
    whole = MappedIncidence(tmp_path, layout, graph, degrees, range(7), 200).whole()
    assert whole.others.shape == (3 * 200, 2)
    np.testing.assert_array_equal(whole.degrees, np.bincount(dataset.train.rows.ravel(), minlength=53)[whole.rows])
    row = np.repeat(whole.rows, whole.degrees)
    for table in range(3):
        mine = layout.table_of(row) == table
        order = np.argsort(whole.example[mine])
        rows = np.insert(whole.others[mine], table, row[mine], axis=1)[order]
        np.testing.assert_array_equal(rows, dataset.train.rows)
        np.testing.assert_array_equal(whole.label[mine][order], dataset.train.labels)
    in_partition = layout.partition_of(dataset.train.rows.ravel())
    assert partition_edges(tmp_path, layout, graph).tolist() == np.bincount(in_partition, minlength=7).tolist()


def test_the_edges_of_pairs_keep_the_columns_of_earlier_releases() -> None:
    assert edge_schema(Layout(4, (5, 6))).names == ["other", "label", "example"]
    assert edge_schema(Layout(4, (5, 6, 2), ("user", "item", "hour"))).names == ["other0", "other1", "label", "example"]


def test_edges_can_be_selected(tmp_path: Path) -> None:
    sizes = (13, 9, 2)
    dataset = random_dataset(3, sizes)
    layout = Layout(4, sizes, dataset.tables)
    whole = MappedIncidence(
        tmp_path, layout, *write_graph(tmp_path, layout, dataset.train), range(4), len(dataset.train)
    ).whole()
    keep = np.arange(len(whole.example)) % 3 == 0
    kept = whole.keep_edges(keep)
    for position in range(len(whole.rows)):
        edges = range(whole.indptr[position], whole.indptr[position + 1])
        expected = [edge for at, edge in zip(edges, _edges(whole, position), strict=True) if at % 3 == 0]
        assert _edges(kept, position) == expected
