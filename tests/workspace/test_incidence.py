"""Rows read from mapped graph files against every example looked at."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import open_arrow, write_batches
from ifru_dist.workspace.graph import DEGREES, write_graph
from ifru_dist.workspace.incidence import Incidence, MappedIncidence
from ifru_dist.workspace.layout import Layout
from tests.workspace.datasets import random_dataset

PARTITIONS, N_TRAIN = 5, 60
SIZES = {"pairs": (13, 9), "triples": (8, 6, 3)}


def mapped(folder: Path, sizes: tuple[int, ...], partitions: list[int]) -> tuple[MappedIncidence, np.ndarray, Layout]:
    """Some partitions of a random workspace, the rows of its examples, and its layout."""
    dataset = random_dataset(3, sizes, N_TRAIN)
    layout = Layout(PARTITIONS, sizes, dataset.tables)
    return (
        MappedIncidence(folder, layout, *write_graph(folder, layout, dataset.train), partitions, N_TRAIN),
        dataset.train.rows,
        layout,
    )


def found(incidence: Incidence) -> list[list[tuple[list[int], int]]]:
    """Other ends and example of every edge, by row."""
    edges = list(zip(incidence.others.tolist(), incidence.example.tolist(), strict=True))
    return [edges[start:stop] for start, stop in zip(incidence.indptr, incidence.indptr[1:], strict=False)]


def expected(
    row: int, rows: np.ndarray, erased: set[int], bound: int | None, near: np.ndarray | None
) -> list[tuple[list[int], int]]:
    """The same of one row, by its definition."""
    edges = []
    for example, of in enumerate(rows.tolist()):
        others = [other for other in of if other != row]
        wanted = near is None or any(near[other] for other in others)
        if row in of and wanted and example not in erased and (bound is None or example < bound):
            edges.append((others, example))
    return edges


@given(st.data())
@settings(max_examples=60)
def test_the_edges_of_any_rows_are_what_the_examples_say(data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from(list(SIZES.values())))
    partitions = data.draw(st.lists(st.integers(0, PARTITIONS - 1), unique=True, min_size=1))
    bound = data.draw(st.none() | st.integers(0, N_TRAIN))
    with tempfile.TemporaryDirectory() as name:
        incidence, rows, layout = mapped(Path(name), sizes, partitions)
        erased: set[int] = set()
        for known in data.draw(st.lists(st.booleans(), max_size=2)):
            more = data.draw(st.lists(st.integers(0, N_TRAIN - 1), unique=True, max_size=9))
            touched = np.flatnonzero(np.isin(incidence.rows, rows[more]))
            incidence.erase(np.array(more, dtype=np.int64), touched if known else None)
            erased |= set(more)
        count = len(incidence.rows)
        positions = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)))), dtype=np.int64)
        near = data.draw(st.none() | st.sets(st.integers(0, layout.n_rows - 1)))
        mask = None if near is None else np.isin(np.arange(layout.n_rows), list(near))
        some = incidence.of(positions, bound, mask)
        counts = incidence.counts(bound, positions)
    assert some.rows.tolist() == incidence.rows[positions].tolist()
    assert found(some) == [expected(row, rows, erased, bound, mask) for row in some.rows.tolist()]
    assert counts.tolist() == [len(expected(row, rows, erased, bound, None)) for row in some.rows.tolist()]


def test_all_rows_are_what_each_of_them_is(tmp_path: Path) -> None:
    incidence, _, _ = mapped(tmp_path, SIZES["pairs"], [4, 0])
    whole = found(incidence.whole())
    assert whole == [found(incidence.of(np.array([position])))[0] for position in range(len(incidence.rows))]
    assert incidence.counts().tolist() == [len(edges) for edges in whole]


def test_counts_that_do_not_fit_the_edges_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    few, many = random_dataset(3, SIZES["pairs"], N_TRAIN), random_dataset(3, SIZES["pairs"], N_TRAIN + 5)
    layout = Layout(PARTITIONS, SIZES["pairs"], few.tables)
    graph, _ = write_graph(tmp_path, layout, few.train)
    _, degrees = write_graph(tmp_path, layout, many.train)
    with pytest.raises(WorkspaceError, match=f"hold {2 * N_TRAIN} edges, .* say {2 * N_TRAIN + 10}"):
        MappedIncidence(tmp_path, layout, graph, degrees, range(PARTITIONS), N_TRAIN)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    dataset = random_dataset(3, SIZES["pairs"], N_TRAIN)
    layout = Layout(PARTITIONS, SIZES["pairs"], dataset.tables)
    graph, degrees = write_graph(tmp_path, layout, dataset.train)
    with pytest.raises(WorkspaceError, match="of other kinds"):
        MappedIncidence(tmp_path, layout, degrees, degrees, range(PARTITIONS), N_TRAIN)
    incidence = MappedIncidence(tmp_path, layout, graph, degrees, range(PARTITIONS), N_TRAIN - 1)
    with pytest.raises(WorkspaceError, match="name rows or examples that there are not"):
        incidence.whole()


def test_rows_that_there_are_not_are_refused(tmp_path: Path) -> None:
    dataset = random_dataset(3, SIZES["pairs"], N_TRAIN)
    layout = Layout(1, SIZES["pairs"], dataset.tables)
    graph, degrees = write_graph(tmp_path, layout, dataset.train)
    edges = open_arrow(tmp_path, graph[0]).read_all().combine_chunks().to_batches()[0]
    for wrong in (-1, layout.sizes[1]):
        others = edges.column(0).to_numpy().copy()
        others[7] = wrong
        batch = pa.RecordBatch.from_arrays([pa.array(others), *edges.columns[1:]], schema=edges.schema)
        damaged = write_batches(tmp_path, f"graph/damaged{wrong}", edges.schema, [batch])
        incidence = MappedIncidence(tmp_path, layout, (damaged, graph[1]), degrees, [0], N_TRAIN)
        with pytest.raises(WorkspaceError, match="name rows or examples that there are not"):
            incidence.of(np.arange(layout.sizes[0]))
        incidence.of(np.arange(layout.sizes[0], layout.n_rows))


def test_counts_of_other_rows_are_refused(tmp_path: Path) -> None:
    dataset = random_dataset(3, SIZES["pairs"], N_TRAIN)
    layout = Layout(1, SIZES["pairs"], dataset.tables)
    files = write_graph(tmp_path, layout, dataset.train)
    with pytest.raises(WorkspaceError, match="count the edges of other rows"):
        MappedIncidence(tmp_path, Layout(1, (13, 8), dataset.tables), *files, [0], N_TRAIN)


def test_counts_below_zero_are_refused(tmp_path: Path) -> None:
    dataset = random_dataset(3, SIZES["pairs"], N_TRAIN)
    layout = Layout(PARTITIONS, SIZES["pairs"], dataset.tables)
    graph, degrees = write_graph(tmp_path, layout, dataset.train)
    shifted = []
    for table, entry in enumerate(degrees):
        table_of = open_arrow(tmp_path, entry).read_all()
        counts = [batch.column(0).to_numpy().copy() for batch in table_of.to_batches()]
        counts[0][0], counts[0][1] = -1, counts[0][0] + counts[0][1] + 1
        batches = (pa.RecordBatch.from_arrays([pa.array(part)], schema=DEGREES) for part in counts)
        shifted.append(write_batches(tmp_path, f"graph/shifted-{table}", DEGREES, batches))
    with pytest.raises(WorkspaceError, match="counts beside them"):
        MappedIncidence(tmp_path, layout, graph, shifted, range(PARTITIONS), N_TRAIN)
