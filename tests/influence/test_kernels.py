"""The compiled edge loops against the torch ones, and both against plain loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ifru_dist.influence import kernels_numba, kernels_torch
from ifru_dist.influence.edge_losses import derivatives, loss_code
from ifru_dist.influence.kernels import Kernels, kernels_for
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.influence.kernels_torch import TorchKernels
from ifru_dist.influence.pairs import MovedPairs, PairEdges, PairValues
from ifru_dist.models.losses import LOSSES, Loss, tempered

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
LOSS_KINDS = {"bce": LOSSES["bce"], "squared": LOSSES["squared"], "tempered": tempered(LOSSES["bce"], 2.5)}
PAIRS = ("score", "value", "error", "weight", "kept", "gone", "diagonal")
MOVED = ("error", "weight", "less", "diagonal", "loss_change")
BY_EDGE = ("score", "value", "error", "weight", "moved error", "moved weight")
KERNELS = pytest.mark.parametrize("kernels", [NumbaKernels(), TorchKernels()], ids=["numba", "torch"])


class Graph:
    """Random edges and values for rows of some degrees."""

    def __init__(self, degrees: list[int], dim: int, *, far: int = 6, loss: Loss = LOSSES["bce"]) -> None:
        generator = torch.Generator().manual_seed(len(degrees) + 100 * dim)
        n, e = len(degrees), sum(degrees)
        self.indptr = torch.tensor([0, *torch.tensor(degrees, dtype=torch.int64).cumsum(0).tolist()])
        self.row = torch.repeat_interleave(torch.arange(n), torch.tensor(degrees, dtype=torch.int64)).tolist()
        self.col = torch.randint(0, far, (e,), generator=generator)
        self.moving = torch.randint(-1, 3, (e,), generator=generator)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        scale = dim**-0.25  # a score of two rows is then of the size of 1, as those of a model are
        self.rows, self.vector = scale * normal(n, dim), scale * normal(n, dim)
        self.halo, self.vector_halo = scale * normal(far, dim), scale * normal(3, dim)
        self.weight, self.shift = normal(e), normal(n, 1)
        self.label, self.factor = (torch.rand(e, generator=generator, dtype=torch.float64) for _ in range(2))
        self.erased = torch.rand(e, generator=generator) < 0.3
        self.loss = loss

    def pairs(self, kernels: Kernels, kind: torch.dtype) -> tuple[PairValues, MovedPairs]:
        """The pairs at a start, and when ``vector`` has been added to the rows and ``vector_halo`` to the far ends."""
        edges = PairEdges(
            indptr=self.indptr,
            col=self.col.int(),
            label=self.label,
            factor=self.factor,
            erased=self.erased,
            loss=self.loss,
        )
        halo, far_change = self.halo.to(kind), self.vector_halo.to(kind)
        start = kernels.pairs(edges, self.rows, halo)
        rows = self.rows + self.vector
        return start, kernels.moved_pairs(edges, self.moving.int(), start, rows, halo, self.vector, far_change)


def results(kernels: Kernels, graph: Graph, kind: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Every loop over edges, with far ends of some type."""
    edges, weight, moving = (graph.indptr, graph.col.int()), graph.weight, graph.moving.int()
    halo, vector_halo = graph.halo.to(kind), graph.vector_halo.to(kind)
    pairs, moving_pairs = graph.pairs(kernels, kind)
    return {
        **{name: getattr(pairs, name) for name in PAIRS},
        **{f"moved {name}": getattr(moving_pairs, name) for name in MOVED},
        "weighted_sum": kernels.weighted_sum(*edges, weight, halo),
        "weighted_squares": kernels.weighted_squares(*edges, weight, halo),
        "moving_sum": kernels.moving_sum(graph.indptr, moving, weight, vector_halo),
        "gauss_newton": kernels.gauss_newton(
            *edges, moving, weight, graph.rows, halo, graph.vector, vector_halo, graph.shift
        ),
    }


def by_plain_loops(graph: Graph, kind: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The definitions, one edge after the other."""
    names = ("weighted_sum", "weighted_squares", "moving_sum", "gauss_newton")
    sums = {name: torch.zeros_like(graph.rows) for name in names}
    halo, vector_halo = (part.to(kind).double() for part in (graph.halo, graph.vector_halo))
    for edge, (row, far, other) in enumerate(zip(graph.row, graph.col.tolist(), graph.moving.tolist(), strict=True)):
        near, weight, b = graph.rows[row], graph.weight[edge], halo[far]
        change = vector_halo[other] if other >= 0 else torch.zeros_like(near)
        sums["weighted_sum"][row] += weight * b
        sums["weighted_squares"][row] += weight * b**2
        sums["moving_sum"][row] += weight * change
        sums["gauss_newton"][row] += weight * (b @ graph.vector[row] + near @ change) * b
    sums["gauss_newton"] += graph.shift * graph.vector
    return {**sums, **pairs_by_plain_loops(graph, halo, vector_halo)}


def pairs_by_plain_loops(graph: Graph, halo: Tensor, vector_halo: Tensor) -> dict[str, Tensor]:
    """The definitions of what is known of pairs, one edge after the other, from far ends that are rounded already."""
    names = ("kept", "gone", "diagonal", "moved less", "moved diagonal")
    sums = {name: torch.zeros_like(graph.rows) for name in names}
    sums["moved loss_change"] = torch.zeros(len(graph.rows), 1, dtype=torch.float64)
    edges = {name: torch.zeros(len(graph.col), dtype=torch.float64) for name in BY_EDGE}
    for edge, (row, far, other) in enumerate(zip(graph.row, graph.col.tolist(), graph.moving.tolist(), strict=True)):
        a, b, label, factor = graph.rows[row], halo[far], graph.label[edge], graph.factor[edge]
        moved_a, moved_b = a + graph.vector[row], b + (vector_halo[other] if other >= 0 else 0)
        stays = float(not graph.erased[edge])
        score, moved = a @ b, moved_a @ moved_b
        value, error = graph.loss.value(score, label), graph.loss.error(score, label)
        weight = stays * factor * graph.loss.curvature(score, label)
        moved_error = graph.loss.error(moved, label)
        moved_weight = stays * factor * graph.loss.curvature(moved, label)
        found = {"score": score, "value": value, "error": error, "weight": weight}
        for name, number in {**found, "moved error": moved_error, "moved weight": moved_weight}.items():
            edges[name][edge] = number
        sums["kept" if stays else "gone"][row] += factor * error * b
        sums["diagonal"][row] += weight * b**2
        sums["moved less"][row] += factor * error * b - stays * factor * moved_error * moved_b
        sums["moved diagonal"][row] += moved_weight * moved_b**2
        share = stays * factor * (0.5 if other >= 0 else 1.0)
        sums["moved loss_change"][row] += share * (graph.loss.value(moved, label) - value)
    return {**edges, **sums}


@pytest.mark.parametrize("loss", LOSS_KINDS.values(), ids=LOSS_KINDS.keys())
@KERNELS
def test_every_loss_is_that_of_the_models(kernels: Kernels, loss: Loss) -> None:
    graph = Graph(DEGREES["a hub"], 5, loss=loss)
    expected = by_plain_loops(graph)
    for name, result in results(kernels, graph).items():
        torch.testing.assert_close(result, expected[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("loss", LOSS_KINDS.values(), ids=LOSS_KINDS.keys())
def test_losses_are_finite_and_exact_for_scores_far_out(loss: Loss) -> None:
    scores = torch.tensor([-800.0, -40.0, -1e-9, 0.0, 1e-9, 40.0, 800.0], dtype=torch.float64)
    for label in (0.0, 0.3, 1.0):
        labels = torch.full_like(scores, label)
        value, error, _ = compiled(loss, scores, labels)
        torch.testing.assert_close(value, loss.value(scores, labels), **CLOSE)
        torch.testing.assert_close(error, loss.error(scores, labels), **CLOSE)


@pytest.mark.parametrize("loss", LOSS_KINDS.values(), ids=LOSS_KINDS.keys())
def test_losses_of_many_scores_have_the_same_bits_in_runs_of_any_length(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = 6 * torch.randn(1000, generator=generator, dtype=torch.float64)
    labels = torch.rand(1000, generator=generator, dtype=torch.float64)
    whole = compiled(loss, scores, labels)
    expected = (loss.value(scores, labels), loss.error(scores, labels), loss.curvature(scores, labels))
    torch.testing.assert_close(whole, torch.stack(expected), rtol=1e-13, atol=1e-15)
    for length in (1, 3, 7, 64):
        parts = zip(scores.split(length), labels.split(length), strict=True)
        assert torch.equal(torch.cat([compiled(loss, *part) for part in parts], dim=1), whole)


@pytest.mark.parametrize("loss", LOSS_KINDS.values(), ids=LOSS_KINDS.keys())
def test_the_loss_of_a_score_that_is_no_number_is_none(loss: Loss) -> None:
    value, error, _ = compiled(loss, torch.tensor([math.nan, 1.0]), torch.tensor([0.0, 0.0]))
    assert value.isnan().tolist() == [True, False]
    assert error.isnan().tolist() == [True, False]


def compiled(loss: Loss, scores: Tensor, labels: Tensor) -> Tensor:
    """Values and derivatives (3, k) of the compiled loss."""
    results = torch.empty(3, len(scores), dtype=torch.float64)
    arrays = [part.double().contiguous().numpy() for part in (scores, labels)]
    derivatives(loss_code(loss), *arrays, np.empty(len(scores), np.int64), *results.numpy())
    return results


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
        whole = {"moved loss_change": "value"}.get(name, name)  # a difference is as exact as what it is one of
        assert (result - expected[name]).norm() <= 1e-6 * expected[whole].norm(), name


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
    for name in ("col", "moving", "weight", "label", "factor", "erased"):
        setattr(part, name, getattr(whole, name)[edges].clone())
    for name in ("rows", "vector", "shift"):
        setattr(part, name, getattr(whole, name)[start:stop].clone())
    expected = results(kernels, whole)
    for name, result in results(kernels, part).items():
        assert torch.equal(result, expected[name][edges if name in BY_EDGE else slice(start, stop)]), name


@KERNELS
def test_pairs_that_stay_where_they_are_leave_exactly_what_goes(kernels: Kernels) -> None:
    graph = Graph(DEGREES["a hub"], 48)
    for part in (graph.vector, graph.vector_halo):
        part.zero_()
    start, moved = graph.pairs(kernels, torch.float64)
    assert not moved.loss_change.any()
    assert torch.equal(moved.error, start.error)
    graph.erased[:] = False
    assert not graph.pairs(kernels, torch.float64)[1].less.any()


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
