"""What a caller may say about the logs and about the data to be made of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ifru_dist.errors import ConfigError
from ifru_dist.ingest.memory import limit_of

Share = Annotated[float, Field(ge=0, le=1)]
DEFAULT_SPLIT = (0.6, 0.2, 0.2)
FIELD_NAME = re.compile(r"[\w-]+")
"""What a file may be named after."""
TAKEN_NAMES = frozenset({"user", "item", "value", "label", "timestamp", "example"})
"""Names that other columns of the workspace and of the reading have."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What stands where in logs, and what becomes a label: options of all jobs that read them."""

    logs: str
    """Interaction logs: a Parquet or CSV file, a folder, or a quoted glob; with --test: training part."""
    user_column: str = "user"
    """Column of the user ids: integers or strings."""
    item_column: str = "item"
    """Column of the item ids: integers or strings."""
    rating_column: str = "rating"
    """Column of the ratings; read only where no --label-column is given."""
    label_column: str | None = None
    """Column of labels 0 or 1; takes the place of ratings and threshold."""
    timestamp_column: str | None = None
    """Column that says which of a pair's rows is the last; by default the column timestamp, where there is one."""
    positive_threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Label 1 means rating > threshold, strictly; needed unless --label-column is given."""
    max_bad_share: Share = 0.01
    """Stop when more than this share of all rows had to be quarantined."""
    memory_limit: str | None = None
    """Memory that preparing the logs may take on a machine, about, such as 2GiB: rows are sorted on disk, in chunks
    that fit. Libraries take half a GiB of it, and 8 bytes for each row are mapped from files. By default half of the
    machine's, though little of it is taken. What is made does not depend on it."""
    scratch: Path | None = None
    """Folder for the rows that are sorted on disk, about 100 bytes for each of the logs; by default in the workspace.
    With --scheduler ray all machines must see it."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(LogOptions):
    """Options of the preparation; the fields are options of jobs/preprocess.py too."""

    valid: str | None = None
    """Validation part of a split made elsewhere; needs --test."""
    test: str | None = None
    """Test part of a split made elsewhere, with or without --valid. Every row of --logs is then kept for training."""
    fields: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """Further columns that an example has a row of, such as hour or device: integers or strings, each a table of its
    own. For models of more than two fields."""
    k_core: Annotated[int, Field(ge=1)] = 1
    """Keep only users and items with at least this many rows, until stable; 1 keeps all."""
    split: tuple[Share, Share, Share] = DEFAULT_SPLIT
    """Shares of training, validation and test rows, by a random permutation."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1024
    """Seed of the split."""

    @property
    def given_split(self) -> bool:
        """Whether the split was made elsewhere."""
        return self.test is not None

    def check(self) -> None:
        """Check what the options say together.

        Raises:
            ConfigError: two options contradict each other, or one that is needed is missing.
        """
        if self.valid is not None and self.test is None:
            raise ConfigError(f"--valid {self.valid} without --test: a split made elsewhere has a test part: name it")
        if self.given_split and self.k_core > 1:
            raise ConfigError(f"--k-core {self.k_core} with --test: a given split keeps every row: leave out one")
        if self.given_split and tuple(self.split) != DEFAULT_SPLIT:
            raise ConfigError(f"--split {_words(self.split)} with --test: the split is given: leave out one")
        if abs(sum(self.split) - 1) > 1e-9 or self.split[0] == 0:
            raise ConfigError(f"--split {_words(self.split)}: shares must sum to 1 and training needs more than 0")
        limit_of(self.memory_limit)
        self._check_labels()
        self._check_names()

    def _check_labels(self) -> None:
        """One source of labels, not none or two."""
        if self.label_column is None and self.positive_threshold is None:
            raise ConfigError(
                "--positive-threshold is missing: ratings above it get label 1 (or name a 0/1 column by --label-column)"
            )
        if self.label_column is not None and self.positive_threshold is not None:
            raise ConfigError(
                f"--label-column {self.label_column} with --positive-threshold {self.positive_threshold}: leave out one"
            )

    def _check_names(self) -> None:
        """No column serves twice."""
        value = self.rating_column if self.label_column is None else self.label_column
        names = [self.user_column, self.item_column, *self.fields, value, self.timestamp_column]
        if twice := {name for name in names if name is not None and names.count(name) > 1}:
            raise ConfigError(f"column {sorted(twice)[0]!r} is named for two purposes: give each its own column")
        for name in self.fields:
            if name in TAKEN_NAMES or not FIELD_NAME.fullmatch(name):
                raise ConfigError(
                    f"--fields {name!r} cannot name a table: rename the column in the logs, to letters, digits, _ and "
                    f"- only, and to none of {', '.join(sorted(TAKEN_NAMES))}"
                )


def _words(shares: tuple[float, ...]) -> str:
    """Shares as typed on the command line."""
    return " ".join(str(share) for share in shares)
