"""The edge loops compiled for CPUs, on rows in vector registers; a worker's threads share the rows of a block.

A row's sum is formed by one thread, in stored order and by the width alone, so results depend neither on which rows a
worker holds nor on how many threads it has.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.influence.edge_loops import loops_for
from ifru_dist.influence.edge_losses import loss_code
from ifru_dist.influence.pair_loops import pair_loops_for
from ifru_dist.influence.pairs import MovedPairs, PairEdges, PairValues

_COMPILE: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_FAST: dict[str, Any] = {**_COMPILE, "fastmath": {"reassoc", "contract", "nsz"}}
_EDGES_EACH = 8_192
"""Edges that are worth a part of their own."""
_PARTS = 8
"""Parts for each thread, so that one which is held up keeps nobody waiting."""
Floats = NDArray[np.floating]
Indices = NDArray[np.signedinteger]


class NumbaKernels:
    """See ``ifru_dist.influence.kernels.Kernels``. Tensors must be contiguous and on the CPU."""

    def __init__(self, threads: int = 1) -> None:
        """Let some threads, this one included, share the rows."""
        self._threads = threads
        self._others = ThreadPoolExecutor(threads - 1, "edges") if threads > 1 else None

    def pairs(self, edges: PairEdges, rows: Tensor, halo: Tensor) -> PairValues:
        """See Kernels."""
        score, value, error, weight = (torch.empty_like(edges.label) for _ in range(4))
        kept, gone, diagonal = (_zeros(rows.shape) for _ in range(3))
        results = (score, value, error, weight, kept, gone, diagonal)
        self._over_rows(
            pair_loops_for(halo.shape[1]).pairs, edges.indptr, *_given(edges), rows.to(halo.dtype), halo, *results
        )
        return PairValues(score=score, value=value, error=error, weight=weight, kept=kept, gone=gone, diagonal=diagonal)

    def moved_pairs(
        self,
        edges: PairEdges,
        moving: Tensor,
        start: PairValues,
        rows: Tensor,
        halo: Tensor,
        change: Tensor,
        far_change: Tensor,
    ) -> MovedPairs:
        """See Kernels."""
        before = (moving, start.score, start.value, start.error)
        near = (rows.to(halo.dtype), halo, change.to(halo.dtype), far_change.to(halo.dtype))
        error, weight = torch.empty_like(edges.label), torch.empty_like(edges.label)
        less, diagonal, loss_change = _zeros(rows.shape), _zeros(rows.shape), _zeros((len(rows), 1))
        results = (error, weight, less, diagonal, loss_change)
        self._over_rows(
            pair_loops_for(halo.shape[1]).moved_pairs, edges.indptr, *_given(edges), *before, *near, *results
        )
        return MovedPairs(error=error, weight=weight, less=less, diagonal=diagonal, loss_change=loss_change)

    def weighted_sum(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo over the edges of each row, (n, d)."""
        return self._summed("weighted_sum", indptr, col, weight, halo)

    def weighted_squares(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo^2 over the edges of each row, (n, d)."""
        return self._summed("weighted_squares", indptr, col, weight, halo)

    def gauss_newton(
        self,
        indptr: Tensor,
        col: Tensor,
        moving: Tensor,
        weight: Tensor,
        rows: Tensor,
        halo: Tensor,
        vector: Tensor,
        vector_halo: Tensor,
        shift: Tensor,
    ) -> Tensor:
        """Gauss-Newton product of each row, (n, d)."""
        near = (rows.to(halo.dtype), halo, vector.to(halo.dtype), vector_halo.to(halo.dtype))
        result = torch.empty_like(vector)
        self._over_rows(loops_for(halo.shape[1]).gauss_newton, indptr, col, moving, weight, *near, shift, result)
        return result

    def moving_sum(self, indptr: Tensor, moving: Tensor, weight: Tensor, vector_halo: Tensor) -> Tensor:
        """Weighted sum over the edges whose far ends move, (n, d)."""
        return self._summed("moving_sum", indptr, moving, weight, vector_halo)

    def row_blocks(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor, chosen: Tensor) -> Tensor:
        """Weighted sums of outer products, (b, d, d)."""
        dim = halo.shape[1]
        result = torch.zeros(len(chosen), dim, dim, dtype=torch.float64)
        arrays = (part.numpy() for part in (indptr, col, weight, halo, chosen, result))
        loops_for(dim).row_blocks(*arrays)
        return result

    def factor(self, blocks: Tensor) -> Tensor:
        """Cholesky factors, (b, d, d), in place of the blocks."""
        _factor(blocks.numpy())
        return blocks

    def solve_blocks(self, factors: Tensor, chosen: Tensor, values: Tensor) -> None:
        """Solve with the factors in place."""
        _solve_blocks(factors.numpy(), chosen.numpy(), values.numpy())

    def partition_dots(self, left: Tensor, right: Tensor, partition: Tensor, partitions: int) -> Tensor:
        """Dot products of the rows of each partition, (partitions,)."""
        result = torch.zeros(partitions, dtype=torch.float64)
        _partition_dots(left.numpy(), right.numpy(), partition.numpy(), result.numpy())
        return result

    def _summed(self, name: str, indptr: Tensor, *arguments: Tensor) -> Tensor:
        """What a loop sums for each row, (n, d); the last argument is a matrix of d columns."""
        dim = arguments[-1].shape[1]
        result = torch.zeros(len(indptr) - 1, dim, dtype=torch.float64)
        self._over_rows(getattr(loops_for(dim), name), indptr, *arguments, result)
        return result

    def _over_rows(self, loop: Callable[..., None], indptr: Tensor, *arguments: Tensor | tuple[int, float]) -> None:
        """Run a loop over all rows; threads take parts of about equally many edges until none is left."""
        arrays = [part.numpy() if isinstance(part, Tensor) else part for part in (indptr, *arguments)]
        rows, edges = len(indptr) - 1, int(indptr[-1])
        parts = min(self._threads * _PARTS, edges // _EDGES_EACH)
        if self._others is None or parts < 2:
            return loop(0, rows, *arrays)
        inner = np.searchsorted(arrays[0], edges * np.arange(1, parts) // parts)
        left = iter(list(pairwise([0, *inner.tolist(), rows])))

        def work() -> None:
            for first, stop in left:
                loop(first, stop, *arrays)

        helping = [self._others.submit(work) for _ in range(min(self._threads, parts) - 1)]
        work()
        for help_ in helping:
            if not help_.cancel():  # who has not begun yet would find nothing left to do
                help_.result()
        return None


def _given(edges: PairEdges) -> tuple[Tensor | tuple[int, float], ...]:
    """Edges as the loops over pairs take them, but for the row pointers."""
    return edges.col, edges.label, edges.factor, edges.erased, loss_code(edges.loss)


def _zeros(shape: tuple[int, ...]) -> Tensor:
    """Sums that are to be formed."""
    return torch.zeros(shape, dtype=torch.float64)


# Own loops: a library's may round a block by where it lies in memory, and so by which worker holds it.
@njit("void(f8[:, :, ::1])", **_FAST)
def _factor(blocks: Floats) -> None:
    dim = blocks.shape[1]
    for index in range(len(blocks)):
        block = blocks[index]
        for k in range(dim):
            for j in range(k + 1):
                total = block[k, j]
                for i in range(j):
                    total -= block[k, i] * block[j, i]
                block[k, j] = np.sqrt(total) if k == j else total / block[j, j]


@njit("void(f8[:, :, ::1], i8[::1], f8[:, ::1])", **_FAST)
def _solve_blocks(factors: Floats, chosen: Indices, values: Floats) -> None:
    dim = values.shape[1]
    for index in range(len(chosen)):
        lower, x = factors[index], values[chosen[index]]
        for k in range(dim):
            total = x[k]
            for j in range(k):
                total -= lower[k, j] * x[j]
            x[k] = total / lower[k, k]
        for k in range(dim - 1, -1, -1):
            x[k] /= lower[k, k]
            for j in range(k):
                x[j] -= lower[k, j] * x[k]


@njit(
    [f"void({kind}[:, ::1], {kind}[:, ::1], i8[::1], f8[::1])" for kind in ("f8", "f4")],
    **_FAST,
)
def _partition_dots(left: Floats, right: Floats, partition: Indices, result: Floats) -> None:
    dim = left.shape[1]
    for row in range(len(left)):
        total = 0.0
        for k in range(dim):
            total += np.float64(left[row, k]) * right[row, k]
        result[partition[row]] += total
