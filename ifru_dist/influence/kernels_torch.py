"""The edge loops in torch operations: for GPUs, and as the reference for the compiled ones."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ifru_dist.influence.pairs import MovedPairs, PairEdges, PairValues

CHUNK_EDGES = 1 << 20


class TorchKernels:
    """See ``ifru_dist.influence.kernels.Kernels``. Temporaries are bounded by CHUNK_EDGES, or by one row's edges."""

    def pairs(self, edges: PairEdges, rows: Tensor, halo: Tensor) -> PairValues:
        """See Kernels."""
        csr, loss, label = (edges.indptr, edges.col), edges.loss, edges.label
        score = _by_edge(edges.indptr, lambda c: (rows[c.row] * halo[edges.col[c.edges]].double()).sum(-1))
        error, gone = loss.error(score, label), edges.factor * edges.erased
        kept = edges.factor - gone
        weight = loss.curvature(score, label) * kept
        return PairValues(
            score=score,
            value=loss.value(score, label),
            error=error,
            weight=weight,
            kept=self.weighted_sum(*csr, error * kept, halo),
            gone=self.weighted_sum(*csr, error * gone, halo),
            diagonal=self.weighted_squares(*csr, weight, halo),
        )

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
        padded, loss, label, col = _padded(far_change), edges.loss, edges.label, edges.col

        def changes(c: "_Chunk") -> Tensor:
            near, far = halo[col[c.edges]].double(), padded[moving[c.edges]]
            return (near * change[c.row]).sum(-1) + (rows[c.row] * far).sum(-1)

        score = start.score + _by_edge(edges.indptr, changes)
        kept, error = edges.factor * (~edges.erased).double(), loss.error(score, label)
        now, weight = error * kept, loss.curvature(score, label) * kept
        given = start.error * edges.factor - now

        def differences(c: "_Chunk") -> Tensor:
            near, far = halo[col[c.edges]].double(), padded[moving[c.edges]]
            return given[c.edges, None] * near - now[c.edges, None] * far

        def squares(c: "_Chunk") -> Tensor:
            near, far = halo[col[c.edges]].double(), padded[moving[c.edges]]
            return weight[c.edges, None] * (near + far).square()

        lost = ((loss.value(score, label) - start.value) * kept / (1 + (moving >= 0).double()))[:, None]
        return MovedPairs(
            error=error,
            weight=weight,
            less=_row_sums(edges.indptr, halo, differences),
            diagonal=_row_sums(edges.indptr, halo, squares),
            loss_change=_row_sums(edges.indptr, lost, lambda c: lost[c.edges]),
        )

    def weighted_sum(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo over the edges of each row, (n, d)."""
        return _row_sums(indptr, halo, lambda c: weight[c.edges, None] * halo[col[c.edges]].double())

    def weighted_squares(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor) -> Tensor:
        """Sum of weight * halo^2 over the edges of each row, (n, d)."""
        return _row_sums(indptr, halo, lambda c: weight[c.edges, None] * halo[col[c.edges]].double().square())

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
        padded = _padded(vector_halo)

        def products(c: "_Chunk") -> Tensor:
            near, far = halo[col[c.edges]].double(), padded[moving[c.edges]]
            change = (near * vector[c.row]).sum(-1) + (rows[c.row] * far).sum(-1)
            return (weight[c.edges] * change)[:, None] * near

        return _row_sums(indptr, halo, products).addcmul_(shift, vector).to(vector.dtype)

    def moving_sum(self, indptr: Tensor, moving: Tensor, weight: Tensor, vector_halo: Tensor) -> Tensor:
        """Weighted sum over the edges whose far ends move, (n, d)."""
        padded = _padded(vector_halo)
        return _row_sums(indptr, padded, lambda c: weight[c.edges, None] * padded[moving[c.edges]])

    def row_blocks(self, indptr: Tensor, col: Tensor, weight: Tensor, halo: Tensor, chosen: Tensor) -> Tensor:
        """Weighted sums of outer products, (b, d, d)."""
        blocks = torch.empty(len(chosen), halo.shape[1], halo.shape[1], dtype=torch.float64, device=halo.device)
        for block, row in zip(blocks, chosen.tolist(), strict=True):
            edges = slice(int(indptr[row]), int(indptr[row + 1]))
            far = halo[col[edges]].double()
            torch.matmul((weight[edges, None] * far).T, far, out=block)
        return blocks

    def factor(self, blocks: Tensor) -> Tensor:
        """Cholesky factors, (b, d, d); not a number where a block is not positive definite, as the compiled ones."""
        factors, failed = torch.linalg.cholesky_ex(blocks)
        return torch.where((failed > 0)[:, None, None], torch.nan, factors)

    def solve_blocks(self, factors: Tensor, chosen: Tensor, values: Tensor) -> None:
        """Solve with the factors in place."""
        values[chosen] = torch.cholesky_solve(values[chosen][:, :, None], factors)[:, :, 0]

    def partition_dots(self, left: Tensor, right: Tensor, partition: Tensor, partitions: int) -> Tensor:
        """Dot products of the rows of each partition, (partitions,)."""
        lengths = torch.bincount(partition, minlength=partitions)
        return torch.segment_reduce((left.double() * right).sum(-1), "sum", lengths=lengths, initial=0.0)


class _Chunk:
    """Consecutive rows, the slice of their edges, and the row of each edge."""

    def __init__(self, indptr: Tensor, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.lengths = torch.diff(indptr[start : stop + 1])
        self.edges = slice(int(indptr[start]), int(indptr[stop]))
        self.row = torch.repeat_interleave(torch.arange(start, stop, device=indptr.device), self.lengths)


def _chunks(indptr: Tensor) -> Iterator[_Chunk]:
    """Runs of rows with at most CHUNK_EDGES edges, but at least one row."""
    start, rows = 0, len(indptr) - 1
    while start < rows:
        limit = indptr[start] + CHUNK_EDGES
        stop = max(start + 1, int(torch.searchsorted(indptr, limit, right=True)) - 1)
        yield _Chunk(indptr, start, stop)
        start = stop


def _padded(values: Tensor) -> Tensor:
    """Values (k, d) as float64 with a row of zeros behind them, which the index -1 reads."""
    return torch.cat([values.double(), values.new_zeros(1, values.shape[1], dtype=torch.float64)])


def _by_edge(indptr: Tensor, edge_values: Callable[[_Chunk], Tensor]) -> Tensor:
    """Edge values (edges,) of all chunks, (e,)."""
    parts = [edge_values(chunk) for chunk in _chunks(indptr)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=indptr.device)


def _row_sums(indptr: Tensor, like: Tensor, edge_values: Callable[[_Chunk], Tensor]) -> Tensor:
    """Sum edge values (edges, d) of each chunk over the edges of each row, (n, d)."""
    result = like.new_zeros(len(indptr) - 1, like.shape[1], dtype=torch.float64)
    for chunk in _chunks(indptr):
        values = edge_values(chunk)
        result[chunk.start : chunk.stop] = torch.segment_reduce(values, "sum", lengths=chunk.lengths, initial=0.0)
    return result
