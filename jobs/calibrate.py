"""Find the damping with which unlearning comes closest to retraining, for the model of a workspace."""

from ifru_dist.pipelines.calibrate import CalibrateConfig, calibrate
from ifru_dist.pipelines.command import run_command

if __name__ == "__main__":
    run_command(CalibrateConfig, calibrate)
