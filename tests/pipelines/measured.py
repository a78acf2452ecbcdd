"""Cells of a benchmark as if they had been measured, with figures that are known."""

from typing import Any, Literal

import numpy as np

from ifru_dist.influence.outcome import Round
from ifru_dist.pipelines.benchmark_cells import BatchSample, Cell
from ifru_dist.pipelines.benchmark_fresh import FreshJob
from ifru_dist.sharding.probing import ExchangeProbe, Usage


def round_of(products: int, edges: int) -> Round:
    """One Newton step with so many products that read so many edges each; residuals read twice as many."""
    return Round(
        rows=1,
        edges=edges,
        edges_per_product=edges,
        edges_per_residual=2 * edges,
        iterations=[products],
        residual_outside=None,
        kept=True,
    )


def sample(latency_s: float, *, workers: int = 1, interactions: int = 10, **changes: Any) -> BatchSample:
    """A batch of so many seconds, two thirds of them with the workers, who are busy for a tenth each."""
    phases = {"route": latency_s / 6, "gang": latency_s / 2, "commit": latency_s / 3}
    phases |= dict.fromkeys(("subgraph", "gradient", "solve", "verify"), latency_s / 8)
    figures: dict[str, Any] = {
        "latency_s": latency_s,
        "advance_s": 0.5,
        "phases": phases,
        "interactions": interactions,
        "examples": np.arange(interactions),
        "endpoints": np.arange(interactions),
        "bytes_exchanged": 100 * (workers - 1),
        "busy_s": [0.1 * latency_s * (rank + 1) for rank in range(workers)],
        "calling_s": 0.0,
        "exchange_s": [0.01] * workers,
        "exchanges": 40,
        "gathered_bytes": 0,
        "rounds": [],
    }
    return BatchSample(**figures | changes)


def cell(
    workers: int,
    batch_size: int,
    samples: list[BatchSample],
    *,
    cores: int = 64,
    device: Literal["cpu", "cuda"] = "cpu",
    fresh: FreshJob | None = None,
) -> Cell:
    """A cell on one host; collectives take 2 ms for each step of a ring, calls 1 ms and 1 ms for each worker."""
    usage = Usage(
        host="a",
        cores=cores,
        cpu_s=1.0,
        peak_bytes=1 << 20,
        device_peak_bytes=0,
        exchanges=1,
        exchange_s=0.1,
        gathered_bytes=0,
    )
    ranks = max(1, workers)
    probe = ExchangeProbe(latency_s=0.002 * (ranks - 1), bytes_per_s=1e6 if ranks > 1 else None)
    return Cell(
        device=device,
        workers=workers,
        batch_size=batch_size,
        cold_start_s=3.0,
        samples=samples,
        usages=[usage] * ranks,
        coordinator_peak_bytes=1 << 21,
        call_s=0.001 + 0.001 * ranks,
        probes=[probe] * ranks,
        fresh=fresh,
    )


def fresh_job(committed_s: float) -> FreshJob:
    """A job of its own, most of which is its start."""
    phases = dict.fromkeys(("route", "subgraph", "gradient", "solve", "verify", "commit"), 0.1)
    return FreshJob(committed_s=committed_s, ended_s=committed_s + 1, phases=phases | {"startup": committed_s - 1})
