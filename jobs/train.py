"""Train a model on a workspace, or import one that was trained elsewhere."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.train import TrainConfig, train

if __name__ == "__main__":
    run_command(TrainConfig, train)
