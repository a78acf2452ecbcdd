"""The loops over edges, compiled for a number of columns at their first use, and kept on disk.

Loops run over the rows from ``first`` to ``stop`` of a block, so that threads can share it. Shapes and meanings are
those of ``ifru_dist.influence.kernels``; ``result`` (n, d) starts at zero.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifru_dist.influence.compiling import compiled
from ifru_dist.influence.row_vectors import (
    EDGES_AHEAD,
    add_scaled,
    add_to_row,
    dot_rows,
    load_row,
    prefetch_row,
    scaled_row,
    square_row,
    zero_row,
)

RUN = 64
"""Edges that are summed in registers, in the type that is read, before they are added up in float64."""
Floats = NDArray[np.floating]
Indices = NDArray[np.signedinteger]


class Loops(NamedTuple):
    """The loops for one number of columns."""

    weighted_sum: Callable[..., None]
    weighted_squares: Callable[..., None]
    gauss_newton: Callable[..., None]
    moving_sum: Callable[..., None]
    row_blocks: Callable[..., None]


@cache
def loops_for(width: int) -> Loops:
    """The loops for matrices of ``width`` columns; compiled at their first use, and kept on disk."""

    @compiled
    def gauss_newton(
        first: int,
        stop: int,
        indptr: Indices,
        col: Indices,
        moving: Indices,
        weight: Floats,
        rows: Floats,
        halo: Floats,
        vector: Floats,
        vector_halo: Floats,
        shift: Floats,
        result: Floats,
    ) -> None:
        last, total = len(col) - 1, np.zeros((1, width))
        for row in range(first, stop):
            own, change = load_row(rows, row, width), load_row(vector, row, width)
            for start in range(indptr[row], indptr[row + 1], RUN):
                part = zero_row(halo, width)
                for edge in range(start, min(start + RUN, indptr[row + 1])):
                    ahead = min(edge + EDGES_AHEAD, last)
                    prefetch_row(halo, np.int64(col[ahead]), width)
                    prefetch_row(vector_halo, max(np.int64(moving[ahead]), 0), width)
                    far, other = load_row(halo, np.int64(col[edge]), width), np.int64(moving[edge])
                    slope = dot_rows(far, change)
                    if other >= 0:
                        slope += dot_rows(own, load_row(vector_halo, other, width))
                    part = add_scaled(part, weight[edge] * slope, far)
                add_to_row(total, 0, part)
            for k in range(width):
                result[row, k] = total[0, k] + shift[row, 0] * vector[row, k]
                total[0, k] = 0.0

    @compiled
    def moving_sum(
        first: int, stop: int, indptr: Indices, moving: Indices, weight: Floats, vector_halo: Floats, result: Floats
    ) -> None:
        for row in range(first, stop):
            for start in range(indptr[row], indptr[row + 1], RUN):
                total = zero_row(vector_halo, width)
                for edge in range(start, min(start + RUN, indptr[row + 1])):
                    other = np.int64(moving[edge])
                    if other >= 0:
                        total = add_scaled(total, weight[edge], load_row(vector_halo, other, width))
                add_to_row(result, row, total)

    @compiled
    def row_blocks(
        indptr: Indices, col: Indices, weight: Floats, halo: Floats, chosen: Indices, result: Floats
    ) -> None:
        last = len(col) - 1
        for index in range(len(chosen)):
            block = result[index]
            for edge in range(indptr[chosen[index]], indptr[chosen[index] + 1]):
                prefetch_row(halo, np.int64(col[min(edge + EDGES_AHEAD, last)]), width)
                place = np.int64(col[edge])
                far = load_row(halo, place, width)
                for k in range(width):
                    factor = weight[edge] * halo[place, k]
                    add_to_row(block, k, scaled_row(factor, far))

    return Loops(
        _weighted(width, squared=False),
        _weighted(width, squared=True),
        gauss_newton,
        moving_sum,
        row_blocks,
    )


def _weighted(width: int, *, squared: bool) -> Callable[..., None]:
    """The loop that sums weighted far ends, or their squares."""

    @compiled
    def weighted_sum(
        first: int, stop: int, indptr: Indices, col: Indices, weight: Floats, halo: Floats, result: Floats
    ) -> None:
        last = len(col) - 1
        for row in range(first, stop):
            for start in range(indptr[row], indptr[row + 1], RUN):
                total = zero_row(halo, width)
                for edge in range(start, min(start + RUN, indptr[row + 1])):
                    prefetch_row(halo, np.int64(col[min(edge + EDGES_AHEAD, last)]), width)
                    far = load_row(halo, np.int64(col[edge]), width)
                    if squared:  # known when the loop is compiled
                        far = square_row(far)
                    total = add_scaled(total, weight[edge], far)
                add_to_row(result, row, total)

    return weighted_sum
