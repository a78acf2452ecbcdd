"""The compiled edge loops against the torch ones, and both against plain loops."""

import pytest
import torch
from torch import Tensor

from ifru_dist.influence import kernels_torch
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

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        return self.indptr, self.col


def results(kernels: Kernels, graph: Graph) -> dict[str, Tensor]:
    """Every loop over edges."""
    after = (graph.weight_after, graph.halo_after)
    fields = (graph.moving, graph.weight, graph.rows)
    halves = (graph.halo.float(), graph.vector_halo.float())
    return {
        "scores": kernels.scores(*graph.edges, graph.rows, graph.halo),
        "weighted_sum": kernels.weighted_sum(*graph.edges, graph.weight, graph.halo),
        "weighted_difference": kernels.weighted_difference(*graph.edges, graph.weight, graph.halo, *after),
        "moving_sum": kernels.moving_sum(graph.indptr, graph.moving, graph.weight, graph.vector_halo),
        "moving_sum of floats": kernels.moving_sum(graph.indptr, graph.moving, graph.weight, halves[1]),
        "row_sums": kernels.row_sums(graph.indptr, graph.weight),
        "gauss_newton": kernels.gauss_newton(*graph.edges, *fields, graph.halo, graph.vector, graph.vector_halo),
        "single precision": kernels.gauss_newton(*graph.edges, *fields, halves[0], graph.vector, halves[1]),
    }


def by_plain_loops(graph: Graph) -> dict[str, Tensor]:
    """The definitions, one edge after the other."""
    scores = torch.zeros(len(graph.col), dtype=torch.float64)
    moving = {"moving_sum": torch.float64, "moving_sum of floats": torch.float32}
    names = ("weighted_sum", "weighted_difference", "gauss_newton", "single precision", *moving)
    sums = {name: torch.zeros_like(graph.rows) for name in names}
    sums["row_sums"] = torch.zeros(len(graph.rows), 1, dtype=torch.float64)
    for edge, (row, far, other) in enumerate(zip(graph.row, graph.col.tolist(), graph.moving.tolist(), strict=True)):
        near, weight = graph.rows[row], graph.weight[edge]
        scores[edge] = near @ graph.halo[far]
        sums["weighted_sum"][row] += weight * graph.halo[far]
        difference = weight * graph.halo[far] - graph.weight_after[edge] * graph.halo_after[far]
        sums["weighted_difference"][row] += difference
        sums["row_sums"][row] += weight
        for name, kind in moving.items():
            sums[name][row] += weight * graph.vector_halo[other].to(kind).double() * (other >= 0)
        for name, kind in (("gauss_newton", torch.float64), ("single precision", torch.float32)):
            b = graph.halo[far].to(kind).double()
            moves = graph.vector_halo[other].to(kind).double() if other >= 0 else torch.zeros_like(near)
            sums[name][row] += weight * (b @ graph.vector[row] + near @ moves) * b
    return {"scores": scores, **sums}


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
        assert torch.equal(result, expected[name][edges if name == "scores" else slice(start, stop)]), name


@KERNELS
def test_equal_sides_leave_exactly_nothing(kernels: Kernels) -> None:
    graph = Graph(DEGREES["a hub"], 48)
    side = (graph.weight, graph.halo)
    assert not kernels.weighted_difference(*graph.edges, *side, *side).any()


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


def test_the_device_chooses() -> None:
    assert isinstance(kernels_for(torch.device("cpu")), NumbaKernels)
    assert isinstance(kernels_for(torch.device("cuda")), TorchKernels)
