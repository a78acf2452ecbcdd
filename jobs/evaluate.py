"""Measure a model's quality, and how well it forgot against models retrained without the erased data."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.evaluate import EvaluateConfig, evaluate

if __name__ == "__main__":
    run_command(EvaluateConfig, evaluate)
