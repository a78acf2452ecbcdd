"""Erase a file of requests from the data and the model of a workspace."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn

if __name__ == "__main__":
    run_command(UnlearnConfig, unlearn)
