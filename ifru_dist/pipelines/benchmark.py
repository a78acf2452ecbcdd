"""jobs/benchmark.py: how quickly batches are erased, by workers and batch sizes, and what more workers would bring."""

import os
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import ConfigError, GangError, IfruError, SolveError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.benchmark_batches import BatchDraw
from ifru_dist.pipelines.benchmark_cells import Cell, WatchedWorkers, measure_cell
from ifru_dist.pipelines.benchmark_config import BenchmarkConfig, CellPlan
from ifru_dist.pipelines.benchmark_figures import cell_figures, strong_scaling, weak_scaling
from ifru_dist.pipelines.benchmark_files import BATCHES, CELLS, PLOT, write_batches, write_cells, write_plot
from ifru_dist.pipelines.benchmark_fresh import run_fresh_job
from ifru_dist.pipelines.benchmark_projection import cost_model_report
from ifru_dist.pipelines.benchmark_scratch import ended_by_signal, scratch_copy
from ifru_dist.pipelines.benchmark_spread import Spread
from ifru_dist.pipelines.benchmark_summary import benchmark_summary
from ifru_dist.pipelines.benchmark_training import fine_tuning_report, retraining_report
from ifru_dist.pipelines.erasing import EraseFlags
from ifru_dist.pipelines.progress import say
from ifru_dist.sharding.placement import assign_partitions
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

__all__ = ["BenchmarkConfig", "benchmark"]

_FEW_BATCHES = 20
"""With fewer the 95th percentile is not far from the slowest batch."""

_BUSY = 0.5
"""Load for each core from which the clock's figures are doubtful."""


def benchmark(config: BenchmarkConfig) -> int:
    """Run the job: a report, tables and a plot; the workspace is only read, apart from its folder of reports.

    Raises:
        IfruError: no model, a damaged file, options that do not fit, or nothing could be measured.
    """
    config = validated(config)
    workspace = Workspace(config.workspace)
    version = open_version(workspace, check_content=True)
    config.check_model(version.model.spec)
    check_output(config.output, workspace.root / "reports")
    folder = config.output or workspace.root / "reports" / f"benchmark-{version.manifest.version:06d}"
    with ended_by_signal():
        job = _BenchmarkJob(config, version)
        report = job.run()
    folder.mkdir(parents=True, exist_ok=True)
    write_cells(folder / CELLS, report["cells"])
    write_batches(folder / BATCHES, job.cells)
    if missing := write_plot(folder / PLOT, report):
        report["notes"].append(missing)
    summary = benchmark_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0


class _BenchmarkJob:
    """One benchmark of one version."""

    def __init__(self, config: BenchmarkConfig, version: Version) -> None:
        self._config, self._version, self._started = config, version, time.perf_counter()
        assign_partitions(version.partition_edges(), max(1, *config.workers))  # refuses more workers than partitions
        self._draw = BatchDraw(version, seed=config.seed, activity=config.activity, share=config.share)
        self._plan = CellPlan.of(config, self._draw)
        self._notes = [*self._plan.notes, *_other_work()]
        self._gpu: dict[str, Any] = {"ran": False, "reason": "--gpus-per-worker is 0"}
        self.cells: list[Cell] = []

    def run(self) -> dict[str, Any]:
        """Measure everything; returns the report (docs/reports.md says what each key means)."""
        self._measure("cpu")
        if self._config.gpus_per_worker:
            self._measure_on_gpus()
        trained = self._trained()
        models = cost_model_report(self.cells, Spread(self._version), self._config.project_to)
        self._note_what_is_doubtful(models)
        manifest, sizes = self._version.manifest, self._version.layout.sizes
        retrain_s, fine_tune_s = (figures["seconds"] if figures else None for figures in trained.values())
        return {
            "job": "benchmark",
            "version": manifest.version,
            "model": asdict(self._version.model.spec),
            "data": {
                "interactions": manifest.n_examples - manifest.n_erased,
                "users": sizes[0],
                "users_drawn_from": len(self._draw.users),
                "items": sizes[1],
                "partitions": self._version.layout.partitions,
            },
            "machine": self._machine(),
            "cells": [cell_figures(cell, retrain_s, fine_tune_s) for cell in self.cells],
            "scaling": {
                "strong": strong_scaling(self.cells),
                "weak": weak_scaling(self.cells, self._plan.weak_base),
            },
            **trained,
            "cost_model": models,
            "gpu": self._gpu,
            "notes": self._notes,
            "seconds": {"total": time.perf_counter() - self._started},
            "config": as_dict(self._config),
        }

    def _measure(self, device: Literal["cpu", "cuda"]) -> None:
        """All cells on one kind of device; those of one number of workers share a session of Ray."""
        for count in sorted({workers for workers, _ in self._plan.cells}):
            flags = self._config.erase_flags(count, 1 if device == "cuda" else 0)
            with WatchedWorkers(flags) as workers:
                for size in (size for workers, size in self._plan.cells if workers == count):
                    self._measure_cell(workers, size)
            if self._config.fresh_jobs:  # when Ray has ended: they start it anew
                mine = [(cell.device, cell.workers) == (device, count) for cell in self.cells]
                self.cells = [
                    self._with_fresh_job(cell, flags) if own else cell
                    for own, cell in zip(mine, self.cells, strict=True)
                ]

    def _measure_cell(self, workers: WatchedWorkers, size: int) -> None:
        """One cell on a fresh copy; where its batches cannot be solved the others go on."""
        config, flags = self._config, workers.flags
        batches = self._draw.draw(size, config.batches)
        try:
            with self._copy() as copy:
                self.cells.append(measure_cell(workers, flags, copy, size, batches, config.warm_up))
        except (SolveError, GangError, ConfigError) as error:
            if flags.gpus_per_worker and isinstance(error, ConfigError):
                raise  # there are not so many GPUs
            self._give_up(f"{flags.workers} workers, {size} users: not measured: {error}", error)

    def _with_fresh_job(self, cell: Cell, flags: EraseFlags) -> Cell:
        """A cell whose first measured batch a job of its own erased, too; a note instead, where that fails."""
        batch = self._draw.draw(cell.batch_size, self._config.batches)[self._config.warm_up]
        say(f"{cell.workers} workers, {cell.batch_size} users: a job of its own")
        try:
            with self._copy() as copy:
                return replace(cell, fresh=run_fresh_job(flags, copy, batch))
        except GangError as error:
            self._notes.append(f"{cell.workers} workers, {cell.batch_size} users: {error}")
            return cell

    def _copy(self) -> AbstractContextManager[Version]:
        """A copy of the workspace to erase from."""
        return scratch_copy(self._version, self._config.scratch or self._version.workspace.root.parent)

    def _give_up(self, note: str, error: IfruError) -> None:
        """Go on without a cell; raise its error where it is the first, as the others would end alike."""
        if not self.cells:
            raise error
        say(note)
        self._notes.append(note)

    def _measure_on_gpus(self) -> None:
        """All cells on GPUs, or the reason why not."""
        reason = ""
        try:
            self._measure("cuda")
        except ConfigError as error:
            reason = str(error)
            say(f"GPU: {reason}")
        self._gpu = {"ran": any(cell.device == "cuda" for cell in self.cells), "reason": reason}

    def _trained(self) -> dict[str, dict[str, Any] | None]:
        """Retraining and fine-tuning on what the largest batch leaves; None where it is switched off."""
        config = self._config
        wanted = (config.retrain or config.fine_tune) and any(cell.samples for cell in self.cells)
        kept = self._kept() if wanted else None
        return {
            "retraining": retraining_report(self._version, kept) if kept and config.retrain else None,
            "fine_tuning": fine_tuning_report(self._version, kept) if kept and config.fine_tune else None,
        }

    def _kept(self) -> Interactions:
        """What the model was trained on without the first measured batch of the largest size."""
        trained = self._version.trained()
        cell = max((cell for cell in self.cells if cell.samples), key=lambda cell: cell.batch_size)
        assert trained.ids is not None
        return trained.take(~np.isin(trained.ids, cell.samples[0].examples))

    def _machine(self) -> dict[str, Any]:
        """What the workers ran on."""
        cores = {usage.host: usage.cores for cell in self.cells for usage in cell.usages}
        return {"hosts": len(cores), "cores": sum(cores.values())}

    def _note_what_is_doubtful(self, models: dict[str, Any]) -> None:
        """What a reader of the figures should know."""
        crowded = sorted({cell.workers for cell in self.cells if cell.oversubscribed})
        if crowded:
            self._notes.append(
                f"more workers than cores ({', '.join(map(str, crowded))} workers): their latency is busy time, that "
                "of the coordinator and CPU seconds of the busiest worker, and not the clock's, and leaves out waiting"
            )
        if self._config.repeats < _FEW_BATCHES:
            self._notes.append(f"p95 and p99 of {self._config.repeats} batches are little else than the slowest batch")
        fitted = [pattern for model in models["devices"].values() for pattern in model["patterns"].values()]
        shared = [pattern["coefficients"]["per_held_s"] + pattern["coefficients"]["per_read_s"] for pattern in fitted]
        if 0 in shared:
            self._notes.append(
                "what workers compute did not show apart from what every batch costs, so the cost model may see less "
                "of a gain by more workers than there is: measure larger batches, more repeats, or a quiet machine"
            )
        for cell in self.cells:
            self._notes += [f"{cell.workers} workers, {cell.batch_size} users: {text}" for text in cell.disturbed]


def _other_work() -> list[str]:
    """A note where the machine has other things to do before anything is measured."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < _BUSY * cores:
        return []
    return [
        f"other work ran beside this: a load of {load:.1f} on {cores} core(s) at the start; busy_s is the safer guide"
    ]
