"""Measure how quickly batches are erased, by numbers of workers and batch sizes, on a copy of the workspace."""

from ifru_dist.pipelines.benchmark import BenchmarkConfig, benchmark
from ifru_dist.pipelines.command import run_command

if __name__ == "__main__":
    run_command(BenchmarkConfig, benchmark)
