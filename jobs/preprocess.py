"""Make a workspace of interaction logs."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess

if __name__ == "__main__":
    run_command(PreprocessConfig, preprocess)
