"""The inner loops over edges, chosen by device. Rows are in CSR form; sums run over a row's edges in stored order.

Shapes: n rows, e edges, h rows at the far ends ("halo"), d dimensions. Indices of edges may be int32. What is read at
the far ends of edges may be float32: then an edge is computed in float32 (to about one part in 10^6 of float64), and
sums over edges are still float64, like all results but that of ``gauss_newton``.
"""

from typing import Protocol

import torch
from torch import Tensor

from ifru_dist.influence.kernels_torch import TorchKernels
from ifru_dist.influence.pairs import MovedPairs, PairEdges, PairValues


class Kernels(Protocol):
    """Edge loops whose result for a row depends on that row's edges only, never on what lies beside it."""

    def pairs(self, edges: PairEdges, rows: Tensor, halo: Tensor) -> PairValues:
        """Losses of pairs whose score is the dot product of rows (n, d) with far ends (h, d), and their derivatives."""

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
        """The pairs when both ends have moved, by how much they moved.

        ``halo`` (h, d) is where the far ends were, ``rows`` (n, d) where the rows are now, after ``change`` (n, d);
        ``far_change`` (k, d) is read at index ``moving`` (e,) int32, and is zero where that is -1.
        """

    def weighted_sum(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo over the edges of each row -> (n, d)."""

    def weighted_squares(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo^2 over the edges of each row -> (n, d)."""

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
        """Sum of weight * (b . v_a + a . v_b) * b over the edges of each row, and shift * v_a -> (n, d).

        a is the row (n, d), b its far end (h, d); v_a is ``vector`` (n, d), v_b is ``vector_halo`` at index ``moving``
        (e,), or zero where that index is -1; ``shift`` is (n, 1). The result is of the type of ``vector``.
        """

    def moving_sum(self, indptr: Tensor, moving: Tensor, weight: Tensor, vector_halo: Tensor) -> Tensor:
        """Sum of weight * vector_halo at index ``moving`` (e,) over edges where that is not -1 -> (n, d), float64."""

    def row_blocks(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor, chosen: Tensor) -> Tensor:
        """Sum of weight * b b^T with b = halo over the edges of the chosen rows (b,) -> (b, d, d)."""

    def factor(self, blocks: Tensor) -> Tensor:
        """Cholesky factors (b, d, d), lower, of symmetric positive definite blocks, which may be overwritten."""

    def solve_blocks(self, factors: Tensor, chosen: Tensor, values: Tensor) -> None:
        """Solve in place: values (n, d) at the chosen rows (b,) become block^-1 values, from Cholesky factors."""

    def partition_dots(self, left: Tensor, right: Tensor, partition: Tensor, partitions: int) -> Tensor:
        """Dot products of the rows of each partition, (partitions,); ``partition`` (n,) is ascending."""


def kernels_for(device: torch.device, threads: int = 1) -> Kernels:
    """Compiled loops on a CPU, shared by some threads; torch operations elsewhere."""
    if device.type != "cpu":
        return TorchKernels()
    # Imported here: a worker with a GPU has no use for the compiler.
    from ifru_dist.influence.kernels_numba import NumbaKernels

    return NumbaKernels(threads)
