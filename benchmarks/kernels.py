"""The Gauss-Newton product over many edges: its share of the memory bandwidth, and compositions of a library's kernels.

All far ends move, so an edge reads two rows: b and v_b. The floor is the time in which the measured bandwidth of
copying would bring these rows, the indices and the weights once. The far ends are drawn uniformly from a matrix that no
cache holds. The programs take turns; medians count. Everything is float32, with sums as each program forms them.

    python -m benchmarks.kernels --output benchmarks/results
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmarks.records import keep
from ifru_dist.config import validated
from ifru_dist.influence.kernels_numba import NumbaKernels
from ifru_dist.pipelines.command import run_command

SHARE_OF_FLOOR, SPEED_UP = 0.5, 2.0
"""What the product is to reach: of the floor, and over the best composition."""
_CHUNK = 16_384


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the product and its rivals."""

    edges: Annotated[int, Field(ge=1000)] = 10_000_000
    rows: Annotated[int, Field(ge=10)] = 200_000
    """At either end."""
    dim: Annotated[int, Field(ge=1)] = 64
    threads: Annotated[int, Field(ge=1)] = 2
    runs: Annotated[int, Field(ge=1)] = 7
    output: Path | None = None
    """Where a dated file of the figures is kept."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Edges in CSR form, and the matrices at their ends."""

    indptr: Tensor
    col: Tensor
    weight: Tensor
    rows: Tensor
    halo: Tensor
    vector: Tensor
    vector_halo: Tensor


def main(config: Config) -> None:
    """Draw the edges, let the programs take turns, print, and keep the figures."""
    config = validated(config)
    torch.set_num_threads(config.threads)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
    edges = drawn(config)
    programs = programs_for(edges, config.threads)
    expected = programs["ifru-dist"]().double()
    errors = {name: relative_error(run().double(), expected) for name, run in programs.items()}
    bandwidth = copy_bandwidth()
    seconds = in_turns(programs, config.runs)
    floor = product_bytes(config) / bandwidth
    best = min(time for name, time in seconds.items() if name != "ifru-dist")
    results = {
        "threads": config.threads,
        "edges": config.edges,
        "dim": config.dim,
        "copy_bytes_per_s": bandwidth,
        "floor_s": floor,
        "seconds": seconds,
        "edges_per_s": {name: config.edges / time for name, time in seconds.items()},
        "difference_from_ours": errors,
        "share_of_floor": floor / seconds["ifru-dist"],
        "share_of_floor_asked": SHARE_OF_FLOOR,
        "speed_up_over_best_composition": best / seconds["ifru-dist"],
        "speed_up_asked": SPEED_UP,
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    if config.output is not None:
        keep(config.output, "kernels", results)


def drawn(config: Config) -> Edges:
    """Edges whose ends are drawn uniformly, sorted by row."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.randint(0, config.rows, (config.edges,), generator=generator)
    indptr = torch.zeros(config.rows + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(ends, minlength=config.rows), 0, out=indptr[1:])
    rows, halo, vector, vector_halo = (torch.randn(config.rows, config.dim, generator=generator) for _ in range(4))
    return Edges(
        indptr=indptr,
        col=torch.randint(0, config.rows, (config.edges,), generator=generator, dtype=torch.int32),
        weight=torch.rand(config.edges, generator=generator),
        rows=rows,
        halo=halo,
        vector=vector,
        vector_halo=vector_halo,
    )


def programs_for(edges: Edges, threads: int) -> dict[str, Callable[[], Tensor]]:
    """The product by us, and composed of torch's kernels, each with what it can prepare prepared."""
    kernels, narrow = NumbaKernels(threads), edges.indptr.to(torch.int32)
    shape = (len(edges.rows), len(edges.halo))
    pattern = torch.sparse_csr_tensor(narrow, edges.col, torch.zeros(len(edges.col)), shape)

    shift = torch.zeros(len(edges.rows), 1)

    def ours() -> Tensor:
        places = (edges.indptr, edges.col, edges.col, edges.weight)
        return kernels.gauss_newton(*places, edges.rows, edges.halo, edges.vector, edges.vector_halo, shift)

    def slopes() -> Tensor:
        near = torch.sparse.sampled_addmm(pattern, edges.vector, edges.halo.T, beta=0.0).values()
        return near + torch.sparse.sampled_addmm(pattern, edges.rows, edges.vector_halo.T, beta=0.0).values()

    def with_embedding_bag() -> Tensor:
        factors = slopes().mul_(edges.weight)
        return torch.nn.functional.embedding_bag(
            edges.col, edges.halo, narrow, mode="sum", per_sample_weights=factors, include_last_offset=True
        )

    def with_sparse_matrix() -> Tensor:
        return torch.sparse_csr_tensor(narrow, edges.col, slopes().mul_(edges.weight), shape) @ edges.halo

    near_row = torch.repeat_interleave(torch.arange(shape[0]), torch.diff(edges.indptr))

    def with_gathers() -> Tensor:
        result = torch.zeros_like(edges.rows)
        for start in range(0, len(edges.col), _CHUNK):
            part = slice(start, start + _CHUNK)
            row, far = near_row[part], edges.halo[edges.col[part]]
            slope = (far * edges.vector[row]).sum(1) + (edges.rows[row] * edges.vector_halo[edges.col[part]]).sum(1)
            result.index_add_(0, row, far * (edges.weight[part] * slope)[:, None])
        return result

    return {
        "ifru-dist": ours,
        "sampled_addmm + embedding_bag": with_embedding_bag,
        "sampled_addmm + CSR matmul": with_sparse_matrix,
        "gathers + index_add": with_gathers,
    }


def in_turns(programs: dict[str, Callable[[], Tensor]], runs: int) -> dict[str, float]:
    """Median seconds of each program."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, run in programs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def copy_bandwidth(size_bytes: int = 1 << 28) -> float:
    """Bytes a second that copying a large array reads and writes, the best of some runs."""
    source = torch.ones(size_bytes // 4)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(7):
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2 * size_bytes / best


def product_bytes(config: Config) -> int:
    """What the product reads and writes at least: two rows, two indices and a weight an edge, and all own rows once."""
    return config.edges * (2 * config.dim * 4 + 2 * 4 + 4) + 3 * config.rows * config.dim * 4


def relative_error(values: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    return float((values - expected).norm() / expected.norm())


if __name__ == "__main__":
    run_command(Config, main)
