"""Make an earlier version's model current again, without what was erased since."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.restore import RestoreConfig, restore

if __name__ == "__main__":
    run_command(RestoreConfig, restore)
