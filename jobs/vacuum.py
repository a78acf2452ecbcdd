"""Forget for good: delete what was erased, and old versions, from the files of a workspace."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.vacuum import VacuumConfig, vacuum

if __name__ == "__main__":
    run_command(VacuumConfig, vacuum)
