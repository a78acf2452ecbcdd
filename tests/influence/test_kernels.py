"""The compiled edge loops against the torch ones, and both against plain loops."""

import pytest
import torch
from torch import Tensor

from ifru_dist.influence import kernels_numba, kernels_torch
from ifru_dist.influence.kernels import Kernels, kernels_for
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.kernels_torch import TorchKernels

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
DEGREES = {
    "no rows": [],
    "no edges": [0, 0, 0],
    "one edge": [1],
    "empty rows first and last": [0, 0, 3, 0, 5, 1, 0],
    "a hub": [1, 200, 0, 2],
    "long": [7, 3, 0, 12, 1, 1, 30, 2, 0, 9, 4],
}
GRAPHS = pytest.mark.parametrize("degrees", DEGREES.values(), ids=DEGREES.keys())
DIMS = pytest.mark.parametrize("dim", [1, 5, 48])
CHUNKS = pytest.mark.parametrize("chunk_edges", [1, 4, 7, 1 << 20])
KERNELS = pytest.mark.parametrize("kernels", [NumbaKernels(), TorchKernels()], ids=["numba", "torch"])


class Graph:
    """Random edges and values for rows of some degrees."""

    def __init__(self, degrees: list[int], dim: int, *, far: int = 6) -> None:
        generator = torch.Generator().manual_seed(len(degrees) + 100 * dim)
        n, e = len(degrees), sum(degrees)
        self.indptr = torch.tensor([0, *torch.tensor(degrees, dtype=torch.int64).cumsum(0).tolist()])
        self.row = torch.repeat_interleave(torch.arange(n), torch.tensor(degrees, dtype=torch.int64)).tolist()
        self.col = torch.randint(0, far, (e,), generator=generator)
        self.moving = torch.randint(-1, 3, (e,), generator=generator)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.rows, self.vector = normal(n, dim), normal(n, dim)
        self.halo, self.halo_after, self.vector_halo = normal(far, dim), normal(far, dim), normal(3, dim)
        self.weight, self.weight_after = normal(e), normal(e)


def results(kernels: Kernels, graph: Graph, kind: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Every loop over edges, with far ends of some type."""
    edges, weight, moving = (graph.indptr, graph.col.int()), graph.weight, graph.moving.int()
    halo, vector_halo = graph.halo.to(kind), graph.vector_halo.to(kind)
    after = (graph.weight_after, graph.halo_after.to(kind))
    shift = (weight, graph.weight_after, halo, vector_halo)
    return {
        "scores": kernels.scores(*edges, graph.rows, halo),
        "weighted_sum": kernels.weighted_sum(*edges, weight, halo),
        "weighted_squares": kernels.weighted_squares(*edges, weight, halo),
        "weighted_difference": kernels.weighted_difference(*edges, weight, halo, *after),
        "score_changes": kernels.score_changes(*edges, moving, graph.rows, halo, graph.vector, vector_halo),
        "shifted_sum": kernels.shifted_sum(*edges, moving, *shift),
        "moving_sum": kernels.moving_sum(graph.indptr, moving, weight, vector_halo),
        "row_sums": kernels.row_sums(graph.indptr, weight),
        "gauss_newton": kernels.gauss_newton(*edges, moving, weight, graph.rows, halo, graph.vector, vector_halo),
    }


def by_plain_loops(graph: Graph, kind: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The definitions, one edge after the other."""
    names = ("weighted_sum", "weighted_squares", "weighted_difference", "shifted_sum", "moving_sum", "gauss_newton")
    sums = {name: torch.zeros_like(graph.rows) for name in names}
    sums["row_sums"] = torch.zeros(len(graph.rows), 1, dtype=torch.float64)
    edges = {name: torch.zeros(len(graph.col), dtype=torch.float64) for name in ("scores", "score_changes")}
    halo, halo_after, vector_halo = (
        part.to(kind).double() for part in (graph.halo, graph.halo_after, graph.vector_halo)
    )
    for edge, (row, far, other) in enumerate(zip(graph.row, graph.col.tolist(), graph.moving.tolist(), strict=True)):
        near, weight, after, b = graph.rows[row], graph.weight[edge], graph.weight_after[edge], halo[far]
        change = vector_halo[other] if other >= 0 else torch.zeros_like(near)
        edges["scores"][edge] = near @ b
        edges["score_changes"][edge] = slope = b @ graph.vector[row] + near @ change
        sums["weighted_sum"][row] += weight * b
        sums["weighted_squares"][row] += weight * b**2
        sums["weighted_difference"][row] += weight * b - after * halo_after[far]
        sums["shifted_sum"][row] += weight * b + after * change
        sums["moving_sum"][row] += weight * change
        sums["row_sums"][row] += weight
        sums["gauss_newton"][row] += weight * slope * b
    return {**edges, **sums}


@GRAPHS
@DIMS
@KERNELS
def test_the_loops_are_what_they_are_defined_to_be(kernels: Kernels, degrees: list[int], dim: int) -> None:
    graph = Graph(degrees, dim)
    expected = by_plain_loops(graph)
    for name, result in results(kernels, graph).items():
        assert result.dtype == torch.float64
        torch.testing.assert_close(result, expected[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@GRAPHS
@DIMS
@KERNELS
def test_in_single_precision_they_are_a_millionth_off_at_most(kernels: Kernels, degrees: list[int], dim: int) -> None:
    graph = Graph(degrees, dim)
    expected = by_plain_loops(graph, torch.float32)
    for name, result in results(kernels, graph, torch.float32).items():
        assert result.dtype == torch.float64
        assert (result - expected[name]).norm() <= 1e-6 * expected[name].norm(), name


def test_sums_over_many_edges_are_formed_in_double_precision() -> None:
    graph, ones = Graph([200_000], 5, far=5_000), torch.ones(200_000, dtype=torch.float64)
    halo = graph.halo.float() + 100
    total = NumbaKernels().weighted_sum(graph.indptr, graph.col.int(), ones, halo)
    torch.testing.assert_close(total[0], halo.double()[graph.col].sum(0), rtol=1e-7, atol=0)


@pytest.mark.parametrize("degrees", [DEGREES["long"], DEGREES["a hub"], DEGREES["no edges"], [50] * 7], ids=len)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32], ids=str)
def test_threads_share_the_rows_and_change_no_bit(
    degrees: list[int], kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_numba, "_EDGES_EACH", 5)
    graph = Graph(degrees, 48)
    alone = results(NumbaKernels(), graph, kind)
    for threads in (2, 3, 7):
        for name, result in results(NumbaKernels(threads), graph, kind).items():
            assert torch.equal(result, alone[name]), name


@GRAPHS
@CHUNKS
def test_compiled_equals_torch_in_chunks_of_any_size(
    degrees: list[int], chunk_edges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_torch, "CHUNK_EDGES", chunk_edges)
    graph = Graph(degrees, 5)
    compiled = results(NumbaKernels(), graph)
    for name, result in results(TorchKernels(), graph).items():
        torch.testing.assert_close(result, compiled[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@KERNELS
def test_a_row_does_not_depend_on_the_rows_beside_it(kernels: Kernels) -> None:
    whole = Graph(DEGREES["long"], 48)
    part = Graph(DEGREES["long"], 48)
    start, stop = 3, 8  # the same rows as another worker would hold them
    edges = slice(int(whole.indptr[start]), int(whole.indptr[stop]))
    part.indptr = whole.indptr[start : stop + 1] - whole.indptr[start]
    for name in ("col", "moving", "weight", "weight_after"):
        setattr(part, name, getattr(whole, name)[edges].clone())
    part.rows, part.vector = whole.rows[start:stop].clone(), whole.vector[start:stop].clone()
    expected = results(kernels, whole)
    for name, result in results(kernels, part).items():
        assert torch.equal(
            result, expected[name][edges if name in ("scores", "score_changes") else slice(start, stop)]
        ), name


@KERNELS
def test_equal_sides_leave_exactly_nothing(kernels: Kernels) -> None:
    graph = Graph(DEGREES["a hub"], 48)
    side = (graph.weight, graph.halo)
    assert not kernels.weighted_difference(graph.indptr, graph.col, *side, *side).any()


@KERNELS
@pytest.mark.parametrize("partition", [[], [0, 0, 1, 4, 4], [2, 2, 2], [5]])
def test_dots_of_partitions(kernels: Kernels, partition: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(len(partition), 7, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.zeros(6, dtype=torch.float64)
    for row, part in enumerate(partition):
        expected[part] += left[row] @ right[row]
    result = kernels.partition_dots(left, right, torch.tensor(partition, dtype=torch.int64), 6)
    torch.testing.assert_close(result, expected, **CLOSE)


def test_rows_that_do_not_follow_each_other_in_memory_are_refused() -> None:
    graph = Graph([2, 1], 4)
    torn = torch.randn(6, 8, dtype=torch.float64)[:, ::2]
    with pytest.raises(ValueError, match="make it contiguous"):
        NumbaKernels().weighted_sum(graph.indptr, graph.col, graph.weight, torn)
    whole = torn.contiguous()
    result = NumbaKernels().weighted_sum(graph.indptr, graph.col, graph.weight, whole)
    torch.testing.assert_close(
        result, TorchKernels().weighted_sum(graph.indptr, graph.col, graph.weight, torn), **CLOSE
    )


def test_the_device_chooses() -> None:
    assert isinstance(kernels_for(torch.device("cpu")), NumbaKernels)
    assert isinstance(kernels_for(torch.device("cuda")), TorchKernels)
