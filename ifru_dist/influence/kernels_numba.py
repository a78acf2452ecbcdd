"""The edge loops compiled for one CPU thread: a worker is one process with one core; more cores take more workers.

Reassociation lets the compiler vectorise the dot products; it fixes one order for all rows when it compiles, so results
do not depend on which rows a worker holds.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.influence.prefetch import EDGES_AHEAD, prefetch_row

_EXACT: dict[str, Any] = {"cache": True, "nogil": True}
_COMPILE: dict[str, Any] = {**_EXACT, "fastmath": {"reassoc", "contract", "nsz"}}
Floats = NDArray[np.floating]
Indices = NDArray[np.int64]


class NumbaKernels:
    """See ``ifru_dist.influence.kernels.Kernels``. Tensors must be contiguous and on the CPU."""

    def scores(self, indptr: Tensor, col: Tensor, rows: Tensor, halo: Tensor) -> Tensor:
        """Dot product of each edge's two ends, (e,)."""
        result = halo.new_empty(len(col))
        _scores(indptr.numpy(), col.numpy(), rows.numpy(), halo.numpy(), result.numpy())
        return result

    def weighted_sum(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo over the edges of each row, (n, d)."""
        result = halo.new_zeros(len(indptr) - 1, halo.shape[1])
        _weighted_sum(indptr.numpy(), col.numpy(), weight.numpy(), halo.numpy(), result.numpy())
        return result

    def weighted_difference(
        self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor, weight_after: Tensor, halo_after: Tensor
    ) -> Tensor:
        """Sum of the per-edge differences, (n, d)."""
        result = halo.new_zeros(len(indptr) - 1, halo.shape[1])
        before, after = (weight.numpy(), halo.numpy()), (weight_after.numpy(), halo_after.numpy())
        _weighted_difference(indptr.numpy(), col.numpy(), *before, *after, result.numpy())
        return result

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
    ) -> Tensor:
        """Gauss-Newton product of each row, (n, d)."""
        result = torch.zeros_like(rows)
        edges = (indptr.numpy(), col.numpy(), moving.numpy(), weight.numpy())
        _gauss_newton(*edges, rows.numpy(), halo.numpy(), vector.numpy(), vector_halo.numpy(), result.numpy())
        return result

    def moving_sum(self, indptr: Tensor, moving: Tensor, weight: Tensor, vector_halo: Tensor) -> Tensor:
        """Weighted sum over the edges whose far ends move, (n, d)."""
        result = torch.zeros(len(indptr) - 1, vector_halo.shape[1], dtype=torch.float64)
        _moving_sum(indptr.numpy(), moving.numpy(), weight.numpy(), vector_halo.numpy(), result.numpy())
        return result

    def row_sums(self, indptr: Tensor, values: Tensor) -> Tensor:
        """Sum of values (e,) over the edges of each row, (n, 1)."""
        result = values.new_zeros(len(indptr) - 1, 1)
        _row_sums(indptr.numpy(), values.numpy(), result.numpy())
        return result

    def row_blocks(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor, chosen: Tensor) -> Tensor:
        """Weighted sums of outer products, (b, d, d)."""
        dim = halo.shape[1]
        result = halo.new_zeros(len(chosen), dim, dim)
        _row_blocks(indptr.numpy(), col.numpy(), weight.numpy(), halo.numpy(), chosen.numpy(), result.numpy())
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


@njit("void(i8[::1], i8[::1], f8[:, ::1], f8[:, ::1], f8[::1])", **_COMPILE)
def _scores(indptr: Indices, col: Indices, rows: Floats, halo: Floats, result: Floats) -> None:
    dim = rows.shape[1]
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(col):
                prefetch_row(halo, col[edge + EDGES_AHEAD])
            far = col[edge]
            total = 0.0
            for k in range(dim):
                total += rows[row, k] * halo[far, k]
            result[edge] = total


@njit("void(i8[::1], i8[::1], f8[::1], f8[:, ::1], f8[:, ::1])", **_COMPILE)
def _weighted_sum(indptr: Indices, col: Indices, weight: Floats, halo: Floats, result: Floats) -> None:
    dim = halo.shape[1]
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(col):
                prefetch_row(halo, col[edge + EDGES_AHEAD])
            far, factor = col[edge], weight[edge]
            for k in range(dim):
                result[row, k] += factor * halo[far, k]


# Without contraction: a fused multiply-subtract would leave rounding noise where both sides are equal.
@njit("void(i8[::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[:, ::1], f8[:, ::1])", **_EXACT)
def _weighted_difference(
    indptr: Indices,
    col: Indices,
    weight: Floats,
    halo: Floats,
    weight_after: Floats,
    halo_after: Floats,
    result: Floats,
) -> None:
    dim = halo.shape[1]
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(col):
                prefetch_row(halo, col[edge + EDGES_AHEAD])
                prefetch_row(halo_after, col[edge + EDGES_AHEAD])
            far, before, after = col[edge], weight[edge], weight_after[edge]
            for k in range(dim):
                result[row, k] += before * halo[far, k] - after * halo_after[far, k]


@njit(
    [
        f"void(i8[::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], {far}[:, ::1], f8[:, ::1], {far}[:, ::1], f8[:, ::1])"
        for far in ("f8", "f4")
    ],
    **_COMPILE,
)
def _gauss_newton(
    indptr: Indices,
    col: Indices,
    moving: Indices,
    weight: Floats,
    rows: Floats,
    halo: Floats,
    vector: Floats,
    vector_halo: Floats,
    result: Floats,
) -> None:
    dim = rows.shape[1]
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(col):
                prefetch_row(halo, col[edge + EDGES_AHEAD])
                if moving[edge + EDGES_AHEAD] >= 0:
                    prefetch_row(vector_halo, moving[edge + EDGES_AHEAD])
            far, other = col[edge], moving[edge]
            own, across = 0.0, 0.0
            for k in range(dim):
                own += halo[far, k] * vector[row, k]
            if other >= 0:
                for k in range(dim):
                    across += rows[row, k] * vector_halo[other, k]
            factor = weight[edge] * (own + across)
            for k in range(dim):
                result[row, k] += factor * halo[far, k]


@njit(
    [f"void(i8[::1], i8[::1], f8[::1], {far}[:, ::1], f8[:, ::1])" for far in ("f8", "f4")],
    **_COMPILE,
)
def _moving_sum(indptr: Indices, moving: Indices, weight: Floats, vector_halo: Floats, result: Floats) -> None:
    dim = result.shape[1]
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            other = moving[edge]
            if other >= 0:
                for k in range(dim):
                    result[row, k] += weight[edge] * vector_halo[other, k]


@njit("void(i8[::1], f8[::1], f8[:, ::1])", **_EXACT)
def _row_sums(indptr: Indices, values: Floats, result: Floats) -> None:
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            result[row, 0] += values[edge]


@njit("void(i8[::1], i8[::1], f8[::1], f8[:, ::1], i8[::1], f8[:, :, ::1])", **_COMPILE)
def _row_blocks(indptr: Indices, col: Indices, weight: Floats, halo: Floats, chosen: Indices, result: Floats) -> None:
    dim = halo.shape[1]
    for index in range(len(chosen)):
        row, block = chosen[index], result[index]
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(col):
                prefetch_row(halo, col[edge + EDGES_AHEAD])
            far, factor = col[edge], weight[edge]
            for k in range(dim):
                scaled = factor * halo[far, k]
                for j in range(dim):
                    block[k, j] += scaled * halo[far, j]


# Own loops: a library's may round a block by where it lies in memory, and so by which worker holds it.
@njit("void(f8[:, :, ::1])", **_COMPILE)
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


@njit("void(f8[:, :, ::1], i8[::1], f8[:, ::1])", **_COMPILE)
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


@njit("void(f8[:, ::1], f8[:, ::1], i8[::1], f8[::1])", **_COMPILE)
def _partition_dots(left: Floats, right: Floats, partition: Indices, result: Floats) -> None:
    dim = left.shape[1]
    for row in range(len(left)):
        total = 0.0
        for k in range(dim):
            total += left[row, k] * right[row, k]
        result[partition[row]] += total
