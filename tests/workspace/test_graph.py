import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.workspace.dataset import Dataset
from ifru_dist.workspace.graph import Incidence, partition_edges, read_incidence, write_graph
from ifru_dist.workspace.layout import Layout
from tests.workspace.datasets import datasets, random_dataset


def _expected_edges(dataset: Dataset, row: int) -> list[tuple[int, float, int]]:
    """(other row, label, example) of one row by looking at every example."""
    edges = []
    for example, (pair, label) in enumerate(zip(dataset.train.rows.tolist(), dataset.train.labels, strict=True)):
        if row in pair:
            edges.append((pair[1 - pair.index(row)], float(label), example))
    return edges


def _edges(incidence: Incidence, position: int) -> list[tuple[int, float, int]]:
    edges = slice(incidence.indptr[position], incidence.indptr[position + 1])
    columns = (incidence.other[edges], incidence.label[edges], incidence.example[edges])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(datasets(), st.integers(1, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_incidence_of_any_partitions_is_what_the_examples_say(
    dataset: Dataset, partitions: int, data: st.DataObject
) -> None:
    layout = Layout(partitions, tuple(len(ids) for ids in dataset.ids))
    chosen = data.draw(st.lists(st.integers(0, partitions - 1), unique=True))
    with tempfile.TemporaryDirectory() as name:
        graph, degrees = write_graph(Path(name), layout, dataset.train)
        incidence = read_incidence(Path(name), layout, graph, degrees, chosen)
        counts = partition_edges(Path(name), layout, graph)
    rows = [row for partition in chosen for row in layout.partition_rows(partition).tolist()]
    assert incidence.rows.tolist() == rows
    assert [_edges(incidence, position) for position in range(len(rows))] == [
        _expected_edges(dataset, row) for row in rows
    ]
    assert counts.sum() == 2 * len(dataset.train)
    assert counts[chosen].sum() == len(incidence.example)


def test_edges_can_be_selected(tmp_path: Path) -> None:
    dataset = random_dataset(3)
    layout = Layout(4, (13, 9))
    whole = read_incidence(tmp_path, layout, *write_graph(tmp_path, layout, dataset.train), range(4))
    keep = np.arange(len(whole.example)) % 3 == 0
    kept = whole.keep_edges(keep)
    for position in range(len(whole.rows)):
        edges = range(whole.indptr[position], whole.indptr[position + 1])
        expected = [edge for at, edge in zip(edges, _edges(whole, position), strict=True) if at % 3 == 0]
        assert _edges(kept, position) == expected
