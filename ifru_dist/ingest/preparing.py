"""Logs to a dataset: read, set bad rows apart, keep one row for each pair, take the core, split."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.ingest.cleaning import LabelRule, Part
from ifru_dist.ingest.core import k_core
from ifru_dist.ingest.identifiers import training_table
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.quarantine import check_share, count_reasons, write_quarantine
from ifru_dist.ingest.reading import Rows, Scheduler, join_parts, joined_bad, read_parts
from ifru_dist.ingest.schemas import resolve_columns
from ifru_dist.ingest.scrubbing import without_suppressed
from ifru_dist.ingest.sources import LogFile, find_files, open_file
from ifru_dist.ingest.splitting import last_of_pairs, random_split
from ifru_dist.ingest.suppressing import suppressed_rows
from ifru_dist.interactions import Interactions
from ifru_dist.workspace.dataset import Dataset
from ifru_dist.workspace.suppression import SuppressionList

Positions = NDArray[np.int64]
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Prepared:
    """Data ready to be written, and how it came about."""

    dataset: Dataset
    counts: dict[str, Any]
    seconds: dict[str, float]


@dataclass
class _Run:
    """Counts and seconds of a preparation while it goes on."""

    say: Callable[[str], None]
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note how long a phase takes."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def prepare(
    options: PrepareOptions,
    scheduler: Scheduler,
    quarantine: Path,
    say: Callable[[str], None] = print,
    listed: SuppressionList | None = None,
) -> Prepared:
    """Read, clean, select and split logs.

    Args:
        options: What to read and how to select.
        scheduler: Dask's scheduler for the reading.
        quarantine: File for the rows that cannot be used; none of them names what was erased before.
        say: Receives a line as each phase ends.
        listed: What was erased before; rows that name it are left out.

    Raises:
        ConfigError: options contradict each other.
        InputError: files cannot be read, too many rows are bad, or nothing is left to train on.
    """
    options.check()
    run = _Run(say)
    places = {"--logs": options.logs, "--valid": options.valid, "--test": options.test}
    groups = [[open_file(path) for path in find_files(place, name)] for name, place in places.items() if place]
    parts = _read(options, groups, scheduler, run)
    _set_apart(options, [part for group in parts for part in group], quarantine, run, listed)
    with run.phase("codes"):
        rows = join_parts([part for group in parts for part in group])
    with run.phase("select"):
        kept = _not_suppressed(rows, listed, run)
        split = _given(parts, kept, options) if options.given_split else _selected(rows, kept, options, run)
    with run.phase("tables"):
        names = ("user", "item", *options.fields)
        dataset = _dataset(rows, names, split, run, from_text=groups[0][0].is_csv)
    return Prepared(dataset, run.counts, run.seconds)


def _read(
    options: PrepareOptions, groups: Sequence[Sequence[LogFile]], scheduler: Scheduler, run: _Run
) -> list[list[Part]]:
    """What the fragments of each group of files gave."""
    columns = resolve_columns(options, [file for group in groups for file in group])
    fragments = [[fragment for file in group for fragment in file.fragments()] for group in groups]
    n_files, flat = sum(map(len, groups)), [fragment for group in fragments for fragment in group]
    run.say(f"files: {n_files:,}, parts to read: {len(flat):,}")
    with run.phase("read"):
        read = iter(read_parts(flat, columns, LabelRule(options.positive_threshold), scheduler))
    parts = [[next(read) for _ in group] for group in fragments]
    for group, files in zip(parts, groups, strict=True):
        if sum(part.n_read for part in group) == 0:
            raise InputError(f"{', '.join(str(file.path) for file in files)}: no rows: give logs with interactions")
    run.counts["files"] = n_files
    return parts


def _set_apart(
    options: PrepareOptions, parts: Sequence[Part], quarantine: Path, run: _Run, listed: SuppressionList | None
) -> None:
    """Write the quarantine file, and stop when it holds too much or everything."""
    n_read, bad = sum(part.n_read for part in parts), joined_bad(parts)
    shown = bad if listed is None else without_suppressed(bad, listed)
    write_quarantine(quarantine, shown)
    run.counts |= {} if listed is None else {"quarantine_scrubbed": len(bad) - len(shown)}
    run.counts |= {"rows_read": n_read, "quarantined": count_reasons(bad)}
    run.say(f"read {n_read:,} rows in {run.seconds['read']:.1f} s, {len(bad):,} of them cannot be used")
    check_share(bad, n_read, options.max_bad_share, quarantine)
    if len(bad) == n_read:
        raise InputError(f"none of the {n_read:,} rows can be used: see {quarantine}")


def _not_suppressed(rows: Rows, listed: SuppressionList | None, run: _Run) -> Positions:
    """Positions of the rows that name nothing that was erased before."""
    run.counts["suppressed"] = None
    if listed is None:
        return np.arange(len(rows))
    left_out = suppressed_rows(rows, listed)
    run.counts["suppressed"] = left_out.counts
    run.say(f"{left_out.rows.sum():,} rows name what was erased before, and are left out")
    return np.flatnonzero(~left_out.rows)


def _given(parts: Sequence[Sequence[Part]], kept: Positions, options: PrepareOptions) -> list[Positions]:
    """Positions of the training, validation and test rows of a split made elsewhere; it may have no validation part."""
    sizes = [sum(len(part.rows) for part in group) for group in parts]
    sizes = sizes if options.valid is not None else [sizes[0], 0, sizes[1]]
    return np.split(kept, np.searchsorted(kept, np.cumsum(sizes)[:-1]))


def _selected(rows: Rows, usable: Positions, options: PrepareOptions, run: _Run) -> list[Positions]:
    """Positions of the training, validation and test rows after deduplication, k-core and shuffling."""
    times = None if rows.times is None else rows.times[usable]
    kept = usable[last_of_pairs(rows.users.codes[usable], rows.items.codes[usable], times)]
    run.counts["duplicates"] = len(usable) - len(kept)
    if options.k_core > 1:
        kept = kept[k_core(rows.users.codes[kept], rows.items.codes[kept], options.k_core)]
        if len(kept) == 0:
            raise InputError(f"--k-core {options.k_core} leaves no rows of {len(rows):,}: choose a smaller one")
    run.counts |= {
        "rows_after_k_core": len(kept),
        "users_after_k_core": len(np.unique(rows.users.codes[kept])),
        "items_after_k_core": len(np.unique(rows.items.codes[kept])),
    }
    core = f" after the {options.k_core}-core" if options.k_core > 1 else ""
    run.say(f"{run.counts['duplicates']:,} duplicates; {len(kept):,} rows are left{core}")
    return [kept[part] for part in random_split(len(kept), options.split, options.seed)]


def _dataset(rows: Rows, names: tuple[str, ...], split: Sequence[Positions], run: _Run, *, from_text: bool) -> Dataset:
    """Tables of the training part, and the rows of every part that lie in them."""
    train = split[0]
    if len(train) == 0:
        raise InputError(f"the training part has no usable rows ({len(rows):,} in all): give more logs")
    tables = [training_table(ids.ids, ids.codes[train], from_text=from_text) for ids in rows.ids]
    sizes = [len(ids) for ids, _ in tables]
    offsets = np.cumsum([0, *sizes[:-1]])
    parts, unseen = [], {}
    for name, positions in zip(PARTS, split, strict=True):
        local = np.stack(
            [row_of[ids.codes[positions]] for (_, row_of), ids in zip(tables, rows.ids, strict=True)], axis=1
        )
        seen = np.asarray((local >= 0).all(axis=1))
        parts.append(Interactions(local[seen] + offsets, rows.labels[positions][seen].astype(np.float32)))
        unseen[name] = int(len(seen) - seen.sum())
    run.counts |= {"users": sizes[0], "items": sizes[1], "fields": dict(zip(names[2:], sizes[2:], strict=True))}
    run.counts |= {name: len(part) for name, part in zip(PARTS, parts, strict=True)}
    run.counts["dropped_unseen"] = {name: unseen[name] for name in PARTS[1:]}
    run.counts["positive_share"] = {name: _positive_share(part) for name, part in zip(PARTS, parts, strict=True)}
    ids = tuple(ids for ids, _ in tables)
    return Dataset(ids=ids, tables=names, train=parts[0], valid=parts[1], test=parts[2], extra=run.counts)


def _positive_share(part: Interactions) -> float | None:
    """Share of the labels that are 1; None where there are none."""
    return round(float(part.labels.mean()), 6) if len(part) else None
