"""Write the model of a version, or what changed of it since another version, to a file."""

from ifru_dist.pipelines.command import run_command
from ifru_dist.pipelines.export import ExportConfig, export

if __name__ == "__main__":
    run_command(ExportConfig, export)
