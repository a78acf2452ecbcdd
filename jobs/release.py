"""Release a user, an item or a pair from the list of what must not come back: someone signed up again."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.release import ReleaseConfig, release

if __name__ == "__main__":
    run_command(ReleaseConfig, release)
