"""How quickly batches of the paper's Book-Crossing split are erased, from models trained on it, by jobs/benchmark.py.

For each model: the latency of batches by workers and users, cold starts included (a job of its own, from the command to
the committed version), and the speed-up over retraining and over an epoch of fine-tuning.

    python -m benchmarks.speed --models mf lightgcn --output benchmarks/results
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import Field

from benchmarks.jobs import run_job
from benchmarks.protocol import BOOKCROSSING, DATA_FOLDER, require_data
from benchmarks.records import keep, kept
from benchmarks.trial import Setting, Trial
from ifru_dist.config import validated
from ifru_dist.pipelines.command import run_command

ModelName = Literal["mf", "lightgcn"]

_TRAINING: dict[ModelName, tuple[object, ...]] = {
    "mf": (),
    "lightgcn": ("--model", "lightgcn", "--layers", 1, "--dim", 32),  # as benchmarks/lightgcn.py has it
}
_SHARE = 0.01  # of requests that nobody asks for here: the job draws its own


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] = ("mf", "lightgcn")
    workers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1, 2)
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 10, 100, 1000)
    """Users of a batch."""
    repeats: Annotated[int, Field(ge=1)] = 5
    data_folder: Path = DATA_FOLDER
    """Folder of bookcrossing.parquet."""
    output: Path | None = None
    """Where a dated file of the reports is kept."""


def main(config: Config) -> None:
    """Train and measure each model, and keep the reports."""
    config = validated(config)
    require_data([config.data_folder / BOOKCROSSING.file])
    reports: dict[str, Any] = {model: measured(config, model) for model in config.models}
    if config.output is not None:
        keep(config.output, "speed", reports)


def measured(config: Config, model: ModelName) -> dict[str, Any]:
    """The report of one model, without what only this machine knows."""
    with TemporaryDirectory(prefix="speed-") as folder:
        setting = Setting(data=config.data_folder, folder=Path(folder), seed=1, references=1)
        trial = Trial(setting, BOOKCROSSING, share=_SHARE, flipped=False)
        trial.train(*_TRAINING[model])
        sizes = ("--workers", *config.workers, "--batch-sizes", *config.batch_sizes, "--repeats", config.repeats)
        return kept(run_job("benchmark", "--workspace", trial.workspace, *sizes, output=Path(folder) / "benchmark"))


if __name__ == "__main__":
    run_command(Config, main)
