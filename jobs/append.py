"""Append the interactions of further logs to a workspace."""

from ifru_dist.pipelines.append import AppendConfig, append
from ifru_dist.pipelines.command import run_command

if __name__ == "__main__":
    run_command(AppendConfig, append)
