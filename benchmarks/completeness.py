"""What makes unlearning complete: criteria on figures with several seeds, which doing nothing must fail.

Every run goes through the ordinary jobs, as programs, with one worker in process. The runs are kept in a file of the
day as they end, so that a later command of that day adds to it, and with --resume goes on where one was cut off.

    python -m benchmarks.completeness --parts bookcrossing nothing --seeds 1 2 3
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro
from pydantic import Field

from benchmarks.evaluated import BOOKCROSSING_PART, MOVIELENS_PART, SHARES_PART
from benchmarks.jobs import REPOSITORY
from benchmarks.ledger import RunLedger
from benchmarks.lightgcn import (
    LIGHTGCN_BOOKCROSSING_PART,
    LIGHTGCN_EARLY_STOPPED_PART,
    LIGHTGCN_MOVIELENS_PART,
    LIGHTGCN_STATIONARY_PART,
)
from benchmarks.neumf import NEUMF_PART
from benchmarks.nothing import NOTHING_PART
from benchmarks.parts import Case, Part
from benchmarks.protocol import DATA_FOLDER, require_data
from benchmarks.pruning import PRUNING_PART
from benchmarks.records import command_of
from benchmarks.stationary import STATIONARY_PART
from benchmarks.stream import STREAM_PART
from benchmarks.trial import Setting
from ifru_dist.config import validated
from ifru_dist.errors import ConfigError

PartName = Literal[
    "bookcrossing",
    "movielens",
    "stationary",
    "stream",
    "nothing",
    "shares",
    "lightgcn_stationary",
    "lightgcn_early_stopped",
    "lightgcn_bookcrossing",
    "lightgcn_movielens",
    "pruning",
    "neumf",
]
PARTS: dict[PartName, Part] = {
    "bookcrossing": BOOKCROSSING_PART,
    "movielens": MOVIELENS_PART,
    "stationary": STATIONARY_PART,
    "stream": STREAM_PART,
    "nothing": NOTHING_PART,
    "shares": SHARES_PART,
    "lightgcn_stationary": LIGHTGCN_STATIONARY_PART,
    "lightgcn_early_stopped": LIGHTGCN_EARLY_STOPPED_PART,
    "lightgcn_bookcrossing": LIGHTGCN_BOOKCROSSING_PART,
    "lightgcn_movielens": LIGHTGCN_MOVIELENS_PART,
    "pruning": PRUNING_PART,
    "neumf": NEUMF_PART,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    parts: tuple[PartName, ...] = tuple(PARTS)
    """Parts to run, one after the other."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1, 2, 3)
    """Seeds of the original models; those of the references differ from all of them."""
    references: Annotated[int | None, Field(ge=2)] = None
    """Retrained models; by default 3, and 5 on MovieLens-1M."""
    data_folder: Path = DATA_FOLDER
    """Folder of the ratings: bookcrossing.parquet, ml-1m.parquet, ml-100k.parquet, with columns user, item, rating."""
    output: Path = REPOSITORY / "benchmarks" / "results"
    """Folder of the dated result file and of the plots."""
    resume: bool = False
    """Leave out what the result file of today holds already, with as many references."""


def main(config: Config) -> None:
    """Run the parts; print their tables as they end.

    Raises:
        ConfigError: an option has a value that cannot work.
        SystemExit: data are absent, or a job failed; what was measured before is kept.
    """
    config = validated(config)
    files = {case.protocol.file for name in config.parts for case in PARTS[name].cases}
    require_data([config.data_folder / file for file in sorted(files)])
    ledger = RunLedger(config.output / f"completeness-{date.today().isoformat()}.json", PARTS)
    for name in config.parts:
        for seed in config.seeds:
            for case in PARTS[name].cases:
                _run(config, ledger, name, case, seed)
        ledger.plot(name)
        print(f"\n{ledger.tables(name)}", flush=True)
    print(f"\nkept in {ledger.path}")


def _run(config: Config, ledger: RunLedger, name: PartName, case: Case, seed: int) -> None:
    """Measure a case with one seed and keep it."""
    references = config.references or PARTS[name].references
    if config.resume and ledger.holds(name, case.name, seed, references):
        return
    print(f"\n--- {name}, {case.name}, seed {seed}", flush=True)
    with TemporaryDirectory(prefix="completeness-") as folder:
        setting = Setting(data=config.data_folder, folder=Path(folder), seed=seed, references=references)
        reports = case.measure(setting)
    ledger.add(name, case.name, seed, references, command_of("benchmarks.completeness"), reports)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except ConfigError as error:
        raise SystemExit(str(error)) from None
