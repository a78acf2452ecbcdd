"""The loops over pairs that do all that one place asks for in a single pass over the far ends.

These are scores, losses and their derivatives, and the sums over each row's edges. They are compiled as those of
``ifru_dist.influence.edge_loops`` are.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifru_dist.influence.compiling import compiled
from ifru_dist.influence.edge_loops import RUN, Floats, Indices
from ifru_dist.influence.edge_losses import derivatives
from ifru_dist.influence.row_vectors import (
    EDGES_AHEAD,
    add_rows,
    add_scaled,
    add_to_row,
    dot_rows,
    load_row,
    prefetch_row,
    scaled_row,
    square_row,
    zero_row,
)

_GROUP = 512
"""Edges of several rows whose losses are computed at once: their far ends are still in the cache after that."""
Flags = NDArray[np.bool_]


class PairLoops(NamedTuple):
    """The loops for one number of columns."""

    pairs: Callable[..., None]
    moved_pairs: Callable[..., None]


@compiled
def group_end(begin: int, stop: int, indptr: Indices) -> int:
    """The end of a group of rows that begins somewhere: one row, or several with few edges in all."""
    end = begin + 1
    while end < stop and indptr[end + 1] - indptr[begin] <= _GROUP:
        end += 1
    return end


@compiled
def group_edges(first: int, stop: int, indptr: Indices) -> int:
    """As many edges as a group of rows may have."""
    most = _GROUP
    for row in range(first, stop):
        most = max(most, indptr[row + 1] - indptr[row])
    return most


@cache
def pair_loops_for(width: int) -> PairLoops:
    """The loops for matrices of ``width`` columns; compiled at their first use, and kept on disk."""

    @compiled
    def pairs(
        first: int,
        stop: int,
        indptr: Indices,
        col: Indices,
        label: Floats,
        factor: Floats,
        erased: Flags,
        loss: tuple[int, float],
        rows: Floats,
        halo: Floats,
        score: Floats,
        value: Floats,
        error: Floats,
        weight: Floats,
        kept: Floats,
        gone: Floats,
        diagonal: Floats,
    ) -> None:
        last, room = len(col) - 1, np.empty(group_edges(first, stop, indptr), np.int64)
        begin = first
        while begin < stop:
            end = group_end(begin, stop, indptr)
            for row in range(begin, end):
                near = load_row(rows, row, width)
                for edge in range(indptr[row], indptr[row + 1]):
                    prefetch_row(halo, np.int64(col[min(edge + EDGES_AHEAD, last)]), width)
                    score[edge] = dot_rows(near, load_row(halo, np.int64(col[edge]), width))
            group = slice(indptr[begin], indptr[end])
            derivatives(loss, score[group], label[group], room, value[group], error[group], weight[group])
            for row in range(begin, end):
                for start in range(indptr[row], indptr[row + 1], RUN):
                    slope, squares = zero_row(halo, width), zero_row(halo, width)
                    for edge in range(start, min(start + RUN, indptr[row + 1])):
                        far = load_row(halo, np.int64(col[edge]), width)
                        if erased[edge]:
                            weight[edge] = 0.0
                            add_to_row(gone, row, scaled_row(factor[edge] * error[edge], far))
                        else:
                            weight[edge] *= factor[edge]
                            slope = add_scaled(slope, factor[edge] * error[edge], far)
                            squares = add_scaled(squares, weight[edge], square_row(far))
                    add_to_row(kept, row, slope)
                    add_to_row(diagonal, row, squares)
            begin = end

    @compiled
    def moved_pairs(
        first: int,
        stop: int,
        indptr: Indices,
        col: Indices,
        label: Floats,
        factor: Floats,
        erased: Flags,
        loss: tuple[int, float],
        moving: Indices,
        start_score: Floats,
        start_value: Floats,
        start_error: Floats,
        rows: Floats,
        halo: Floats,
        change: Floats,
        far_change: Floats,
        error: Floats,
        weight: Floats,
        less: Floats,
        diagonal: Floats,
        loss_change: Floats,
    ) -> None:
        last, most = len(col) - 1, group_edges(first, stop, indptr)
        score, value, room = np.empty(most), np.empty(most), np.empty(most, np.int64)
        begin = first
        while begin < stop:
            end, origin = group_end(begin, stop, indptr), indptr[begin]
            for row in range(begin, end):
                near, own_change = load_row(rows, row, width), load_row(change, row, width)
                for edge in range(indptr[row], indptr[row + 1]):
                    ahead = min(edge + EDGES_AHEAD, last)
                    prefetch_row(halo, np.int64(col[ahead]), width)
                    prefetch_row(far_change, max(np.int64(moving[ahead]), 0), width)
                    total = start_score[edge] + dot_rows(load_row(halo, np.int64(col[edge]), width), own_change)
                    if moving[edge] >= 0:
                        total += dot_rows(near, load_row(far_change, np.int64(moving[edge]), width))
                    score[edge - origin] = total
            group = slice(origin, indptr[end])
            derivatives(loss, score[: indptr[end] - origin], label[group], room, value, error[group], weight[group])
            for row in range(begin, end):
                for start in range(indptr[row], indptr[row + 1], RUN):
                    part, squares, total = zero_row(halo, width), zero_row(halo, width), 0.0
                    for edge in range(start, min(start + RUN, indptr[row + 1])):
                        far, now = load_row(halo, np.int64(col[edge]), width), 0.0
                        if erased[edge]:
                            weight[edge] = 0.0
                        else:
                            now, weight[edge] = factor[edge] * error[edge], factor[edge] * weight[edge]
                            share = 0.5 if moving[edge] >= 0 else 1.0
                            total += share * factor[edge] * (value[edge - origin] - start_value[edge])
                        part = add_scaled(part, factor[edge] * start_error[edge] - now, far)
                        if moving[edge] >= 0:
                            far_step = load_row(far_change, np.int64(moving[edge]), width)
                            part, far = add_scaled(part, -now, far_step), add_rows(far, far_step)
                        squares = add_scaled(squares, weight[edge], square_row(far))
                    add_to_row(less, row, part)
                    add_to_row(diagonal, row, squares)
                    loss_change[row, 0] += total
            begin = end

    return PairLoops(pairs, moved_pairs)
