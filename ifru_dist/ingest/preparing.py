"""Logs to a dataset: read, set bad rows apart, keep one row for each pair, take the core, split.

Rows pass from one file of a scratch folder to the next, in chunks and buckets that fit the memory limit; in memory are
at any time only arrays over the ids, a bit for each row, and what some tasks hold. What is made does not depend on the
limit, nor on who ran which task.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.ingest.core import Core, k_core
from ifru_dist.ingest.gathering import Gathered, Gathering
from ifru_dist.ingest.identifiers import training_table
from ifru_dist.ingest.journal import Journal
from ifru_dist.ingest.loops import count_into, set_bits
from ifru_dist.ingest.memory import Budget, limit_of, resident_bytes
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.placing import HeldOut, Tables, place_bucket, place_held_out
from ifru_dist.ingest.running import Runner, Scheduler, Task
from ifru_dist.ingest.sources import find_files, open_file
from ifru_dist.ingest.spilling import Run, read_bucket, read_rows, remove, scratch_folder
from ifru_dist.ingest.splitting import Places, Spans, part_ends, write_shuffle
from ifru_dist.ingest.spooled import Spooled
from ifru_dist.ingest.vocabulary import write_ids
from ifru_dist.workspace.dataset import DataFiles, Dataset
from ifru_dist.workspace.layout import HELD_OUT
from ifru_dist.workspace.suppression import SuppressionList

PARTS = ("train", *HELD_OUT)


@dataclass(frozen=True)
class Prepared:
    """Data in memory, and how it came about."""

    dataset: Dataset
    counts: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Preparation:
    """Data on disk, ready to be written, and how it came about."""

    spooled: Spooled
    counts: dict[str, Any]
    seconds: dict[str, float]
    runner: Runner
    budget: Budget

    def write(self, root: Path, partitions: int) -> DataFiles:
        """Write the files of a workspace's data, once."""
        return self.spooled.write(root, partitions, self.runner, self.budget)


def prepare(
    options: PrepareOptions,
    scheduler: Scheduler,
    quarantine: Path,
    say: Callable[[str], None] = print,
    listed: SuppressionList | None = None,
    scratch: Path | None = None,
) -> Prepared:
    """Read, clean, select and split logs, and hold all that is left in memory.

    Args:
        options: What to read and how to select.
        scheduler: Dask's scheduler.
        quarantine: File for the rows that cannot be used; none of them names what was erased before.
        say: Receives a line as each phase ends.
        listed: What was erased before; rows that name it are left out.
        scratch: Folder for rows that are sorted on disk, gone at the end; by default one of the system's.

    Raises:
        ConfigError: options contradict each other.
        InputError: files cannot be read, too many rows are bad, or nothing is left to train on.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        preparing(options, scheduler, quarantine, scratch or Path(folder) / "rows", say, listed) as found,
    ):
        return Prepared(found.spooled.in_memory(found.counts), found.counts, found.seconds)


@contextmanager
def preparing(
    options: PrepareOptions,
    scheduler: Scheduler,
    quarantine: Path,
    scratch: Path,
    say: Callable[[str], None] = print,
    listed: SuppressionList | None = None,
    budget: Budget | None = None,
) -> Iterator[Preparation]:
    """Read, clean, select and split logs; what they gave lies in a scratch folder until the context ends.

    Arguments and errors are those of ``prepare``, and ``budget``: by default it follows from the options.
    """
    options.check()
    runner, journal = Runner(scheduler, say), Journal(say)
    budget = budget or Budget.of(limit_of(options.memory_limit), runner.threads)
    if budget.is_smallest:
        libraries = resident_bytes() >> 20
        say(f"note: the memory limit leaves little beside the {libraries} MiB of libraries: chunks are small and slow")
    places = {"--logs": options.logs, "--valid": options.valid, "--test": options.test}
    groups = [[open_file(path) for path in find_files(place, name)] for name, place in places.items() if place]
    with scratch_folder(scratch):
        gathering = Gathering(
            options=options,
            runner=runner,
            budget=budget,
            scratch=scratch,
            journal=journal,
            quarantine=quarantine,
            listed=listed,
        )
        selecting = _Selecting(options, runner, budget, scratch, journal)
        spooled = selecting.run(gathering.run(groups), from_text=groups[0][0].is_csv)
        pa.default_memory_pool().release_unused()
        yield Preparation(spooled, journal.counts, journal.seconds, runner, budget)


@dataclass(frozen=True)
class _Selecting:
    """The second half: which rows are left, where they go, and the tables of the training part."""

    options: PrepareOptions
    runner: Runner
    budget: Budget
    scratch: Path
    journal: Journal

    def run(self, gathered: Gathered, *, from_text: bool) -> Spooled:
        """Select, shuffle, place."""
        with self.journal.phase("select"):
            core = self._core(gathered)
            places = self._places(gathered, core)
            if places.ends[0] == 0:
                raise InputError(f"the training part has no usable rows ({gathered.n_usable:,} in all): give more logs")
            spans = Spans.of(places.ends, self.budget.bucket_rows)
            runs = self._placed(gathered, core, places, spans)
        with self.journal.phase("tables"):
            return self._spooled(gathered, runs, spans, from_text=from_text)

    def _core(self, gathered: Gathered) -> Core:
        """The rows that are left."""
        n_users, n_items = (len(vocabulary) for vocabulary in gathered.vocabularies[:2])
        watched = _WatchedPasses(gathered.buckets, self.runner)
        buckets = [partial(watched.pairs, index) for index in range(len(gathered.buckets))]
        core = k_core(buckets, n_users, n_items, self.options.k_core)
        watched.close()
        if not self.options.given_split:
            self._note_core(gathered, core)
        return core

    def _note_core(self, gathered: Gathered, core: Core) -> None:
        """Count what is left, and say so."""
        options, counts = self.options, self.journal.counts
        if options.k_core > 1 and core.n_rows == 0:
            raise InputError(f"--k-core {options.k_core} leaves no rows of {gathered.n_usable:,}: choose a smaller one")
        counts |= {
            "rows_after_k_core": core.n_rows,
            "users_after_k_core": int(np.count_nonzero(core.user_counts)),
            "items_after_k_core": int(np.count_nonzero(core.item_counts)),
        }
        told = f" after the {options.k_core}-core" if options.k_core > 1 else ""
        self.journal.say(f"{counts['duplicates']:,} duplicates; {core.n_rows:,} rows are left{told}")

    def _places(self, gathered: Gathered, core: Core) -> Places:
        """Where each row that is left goes."""
        words = np.zeros(gathered.n_usable // 64 + 1, np.uint64)
        for index, run in enumerate(gathered.buckets):
            position = read_rows(run, slice(0, run.n_rows), ["#position"])["#position"]
            set_bits(position[core.mask(index, run.n_rows)], words)
        before = np.cumsum([0, *np.bitwise_count(words[:-1])], dtype=np.int64)
        left, counted = self.scratch / "left.npy", self.scratch / "left-before.npy"
        np.save(left, words)
        np.save(counted, before)
        places = Places(left, counted, None, (core.n_rows,) * 3)
        if self.options.given_split:
            last = np.array(gathered.group_ends if self.options.valid is not None else gathered.group_ends[:1] * 2)
            train, valid = (int(end) for end in places.of(last[:2]))
            return Places(left, counted, None, (train, valid, core.n_rows))
        ends = part_ends(core.n_rows, self.options.split)
        shuffle = self.scratch / "shuffle.npy"
        if ends[0] > 0:
            write_shuffle(shuffle, core.n_rows, self.options.seed)
        return Places(left, counted, shuffle, ends)

    def _placed(self, gathered: Gathered, core: Core, places: Places, spans: Spans) -> tuple[Run, ...]:
        """The rows that are left, by spans of places."""
        tasks = [
            Task(
                partial(
                    place_bucket, run, core.mask(index, run.n_rows), places, spans, self.scratch / f"placed-{index}"
                ),
                run.n_rows,
            )
            for index, run in enumerate(gathered.buckets)
        ]
        runs = tuple(self.runner.run("shuffling", tasks))
        remove(gathered.buckets)
        return runs

    def _spooled(self, gathered: Gathered, runs: tuple[Run, ...], spans: Spans, *, from_text: bool) -> Spooled:
        """Tables of the training part, and the held-out rows that lie in them."""
        names = ("user", "item", *self.options.fields)
        code_counts = [np.zeros(len(vocabulary), np.int64) for vocabulary in gathered.vocabularies]
        n_positive = _count_training(runs, spans, names, code_counts)
        files, rows, degrees = [], [], []
        for name, vocabulary, counts in zip(names, gathered.vocabularies, code_counts, strict=True):
            used = np.flatnonzero(counts)
            ids, codes = training_table(vocabulary.take(used), used, from_text=from_text)
            row_of_code = np.full(len(vocabulary), -1, np.int32)
            row_of_code[codes] = np.arange(len(codes), dtype=np.int32)
            files.append(self.scratch / f"table-{name}.ids")
            rows.append(self.scratch / f"table-{name}.npy")
            write_ids(files[-1], ids)
            np.save(rows[-1], row_of_code)
            degrees.append(counts[codes])
        tables = Tables(names, tuple(rows))
        held_out = {part: self._held_out(part, runs, spans, tables) for part in HELD_OUT}
        self._note_parts(degrees, n_positive, held_out)
        return Spooled(
            scratch=self.scratch,
            tables=tables,
            id_files=tuple(files),
            degrees=tuple(degrees),
            runs=runs,
            spans=spans,
            held_out=held_out,
        )

    def _held_out(self, part: str, runs: tuple[Run, ...], spans: Spans, tables: Tables) -> tuple[HeldOut, ...]:
        """The rows of a part that lie in the tables."""
        tasks = []
        for span in spans.parts[PARTS.index(part)]:
            start, stop = spans.bounds(span)
            path = self.scratch / f"held-{span}"
            tasks.append(Task(partial(place_held_out, runs, spans, span, tables, path), stop - start))
        return tuple(self.runner.run(f"{part} rows", tasks))

    def _note_parts(
        self, degrees: Sequence[NDArray[np.int64]], n_positive: int, held_out: dict[str, tuple[HeldOut, ...]]
    ) -> None:
        """Count the rows of the tables and of the parts."""
        counts, names = self.journal.counts, self.options.fields
        sizes = [len(degree) for degree in degrees]
        counts |= {"users": sizes[0], "items": sizes[1], "fields": dict(zip(names, sizes[2:], strict=True))}
        n_rows = {"train": int(degrees[0].sum())}
        n_rows |= {part: sum(span.run.n_rows for span in spans) for part, spans in held_out.items()}
        positive = {"train": n_positive}
        positive |= {part: sum(span.n_positive for span in spans) for part, spans in held_out.items()}
        counts |= n_rows
        counts["dropped_unseen"] = {part: sum(span.n_unseen for span in spans) for part, spans in held_out.items()}
        counts["positive_share"] = {
            part: round(positive[part] / n_rows[part], 6) if n_rows[part] else None for part in PARTS
        }


class _WatchedPasses:
    """Reads pairs bucket by bucket, and shows how far each pass through all of them is."""

    def __init__(self, buckets: Sequence[Run], runner: Runner) -> None:
        """Nothing is read yet."""
        self._buckets, self._runner, self._n_passes = buckets, runner, 0
        self._n_rows = sum(run.n_rows for run in buckets)
        self._progress = runner.progress("pairs", self._n_rows)

    def pairs(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Codes of users and items of a settled bucket."""
        if index == 0:
            self._n_passes += 1
            self._progress.close()
            self._progress = self._runner.progress(f"k-core, pass {self._n_passes}", self._n_rows)
        run = self._buckets[index]
        columns = read_rows(run, slice(0, run.n_rows), ["user", "item"])
        self._progress.add(run.n_rows)
        return columns["user"], columns["item"]

    def close(self) -> None:
        """Leave the terminal in order."""
        self._progress.close()


def _count_training(
    runs: Sequence[Run], spans: Spans, names: Sequence[str], counts: Sequence[NDArray[np.int64]]
) -> int:
    """Add up the training rows of each code, for each table; returns how many have label 1."""
    n_positive = 0
    for run in runs:
        columns = read_bucket([run], spans.parts[0], [*names, "label"])
        for name, of_codes in zip(names, counts, strict=True):
            count_into(columns[name], of_codes)
        n_positive += int(columns["label"].sum())
    return n_positive
