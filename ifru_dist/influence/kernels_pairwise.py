"""Edge loops of z = u . (i - j), the difference of two dot products, compiled for one CPU thread.

An edge is a triple (u, i, j) seen from the row that has the given place in it; the derivative of z by that row is
i - j, u or -u. Triples index one matrix of values (own rows, then far ends). Sums run in stored order; like in
``ifru_dist.influence.kernels_numba`` reassociation fixes one order for all rows.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ifru_dist.influence.prefetch import EDGES_AHEAD, prefetch_row

_EXACT: dict[str, Any] = {"cache": True, "nogil": True}
_COMPILE: dict[str, Any] = {**_EXACT, "fastmath": {"reassoc", "contract", "nsz"}}
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@njit("void(i8[:, ::1], f8[:, ::1], f8[::1])", **_COMPILE)
def scores(triples: Indices, values: Floats, result: Floats) -> None:
    """The score z of each triple (e, 3)."""
    for edge in range(len(triples)):
        if edge + EDGES_AHEAD < len(triples):
            for slot in range(3):
                prefetch_row(values, triples[edge + EDGES_AHEAD, slot])
        u, i, j = triples[edge]
        total = 0.0
        for k in range(values.shape[1]):
            total += values[u, k] * (values[i, k] - values[j, k])
        result[edge] = total


@njit("void(i8[::1], i8[:, ::1], i8[::1], f8[::1], f8[:, ::1], f8[:, ::1])", **_COMPILE)
def own_sum(indptr: Indices, triples: Indices, place: Indices, factor: Floats, values: Floats, result: Floats) -> None:
    """Sum of factor * derivative by the own row, over the edges of each row, (m, d)."""
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(triples):
                for slot in range(3):
                    prefetch_row(values, triples[edge + EDGES_AHEAD, slot])
            u, i, j = triples[edge]
            weight = -factor[edge] if place[edge] == 2 else factor[edge]
            if place[edge] == 0:
                for k in range(values.shape[1]):
                    result[row, k] += weight * (values[i, k] - values[j, k])
            else:
                for k in range(values.shape[1]):
                    result[row, k] += weight * values[u, k]


# Without contraction: a fused multiply-subtract would leave rounding noise where both sides are equal.
@njit(
    "void(i8[::1], i8[:, ::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[:, ::1], f8[:, ::1])",
    **_EXACT,
)
def own_difference(
    indptr: Indices,
    triples: Indices,
    place: Indices,
    factor: Floats,
    values: Floats,
    factor_after: Floats,
    values_after: Floats,
    result: Floats,
) -> None:
    """The sum of ``own_sum`` at one place less that at another, every difference formed per edge."""
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(triples):
                for slot in range(3):
                    prefetch_row(values, triples[edge + EDGES_AHEAD, slot])
                    prefetch_row(values_after, triples[edge + EDGES_AHEAD, slot])
            u, i, j = triples[edge]
            sign = -1.0 if place[edge] == 2 else 1.0
            before, after = sign * factor[edge], sign * factor_after[edge]
            for k in range(values.shape[1]):
                if place[edge] == 0:
                    first = before * (values[i, k] - values[j, k])
                    second = after * (values_after[i, k] - values_after[j, k])
                else:
                    first, second = before * values[u, k], after * values_after[u, k]
                result[row, k] += first - second


@njit("void(i8[::1], i8[:, ::1], i8[::1], f8[::1], f8[:, ::1], f8[:, ::1])", **_COMPILE)
def own_squares(
    indptr: Indices, triples: Indices, place: Indices, factor: Floats, values: Floats, result: Floats
) -> None:
    """Sum of factor * squared derivative by the own row, (m, d)."""
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            u, i, j = triples[edge]
            for k in range(values.shape[1]):
                own = values[i, k] - values[j, k] if place[edge] == 0 else values[u, k]
                result[row, k] += factor[edge] * own * own


@njit("void(i8[::1], i8[:, ::1], i8[::1], f8[::1], f8[:, ::1], i8[:, ::1], f8[:, ::1], f8[:, ::1])", **_COMPILE)
def gauss_newton(
    indptr: Indices,
    triples: Indices,
    place: Indices,
    weight: Floats,
    values: Floats,
    moving: Indices,
    changes: Floats,
    result: Floats,
) -> None:
    """Sum of weight * (change of z) * derivative by the own row, (m, d).

    ``moving`` (e, 3) indexes ``changes``, whose last row is zero.
    """
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            if edge + EDGES_AHEAD < len(triples):
                for slot in range(3):
                    prefetch_row(values, triples[edge + EDGES_AHEAD, slot])
                    prefetch_row(changes, moving[edge + EDGES_AHEAD, slot])
            u, i, j = triples[edge]
            a, b, c = moving[edge]
            total = 0.0
            for k in range(values.shape[1]):
                total += (values[i, k] - values[j, k]) * changes[a, k] + values[u, k] * (changes[b, k] - changes[c, k])
            total *= -weight[edge] if place[edge] == 2 else weight[edge]
            if place[edge] == 0:
                for k in range(values.shape[1]):
                    result[row, k] += total * (values[i, k] - values[j, k])
            else:
                for k in range(values.shape[1]):
                    result[row, k] += total * values[u, k]
