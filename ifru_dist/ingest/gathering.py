"""The first half of a preparation: logs to settled buckets of codes, with nothing of their size in memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.ingest.cleaning import LabelRule
from ifru_dist.ingest.coding import code_chunk, settle_bucket
from ifru_dist.ingest.journal import Journal
from ifru_dist.ingest.memory import Budget
from ifru_dist.ingest.options import PrepareOptions
from ifru_dist.ingest.quarantine import check_share, write_quarantine
from ifru_dist.ingest.reading import Chunk, Reading, bad_tables, in_tasks, read_chunks
from ifru_dist.ingest.running import Runner, Task
from ifru_dist.ingest.schemas import resolve_columns
from ifru_dist.ingest.scrubbing import without_suppressed
from ifru_dist.ingest.sources import Fragment, LogFile
from ifru_dist.ingest.spilling import Run, remove
from ifru_dist.ingest.suppressing import SCOPES, suppressed_ids
from ifru_dist.ingest.vocabulary import Vocabulary, merge_bucket
from ifru_dist.workspace.suppression import SuppressionList


@dataclass(frozen=True)
class Gathered:
    """Usable rows as codes."""

    vocabularies: tuple[Vocabulary, ...]
    """Of each id column."""
    buckets: tuple[Run, ...]
    """Rows that stay, settled."""
    n_usable: int
    """Rows that could be used."""
    group_ends: tuple[int, ...]
    """Of each group of files the position behind its last usable row."""


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """Reads logs and settles which row of a pair counts."""

    options: PrepareOptions
    runner: Runner
    budget: Budget
    scratch: Path
    journal: Journal
    quarantine: Path
    """File for the rows that cannot be used."""
    listed: SuppressionList | None
    """What was erased before, and must not come back."""

    def run(self, groups: Sequence[Sequence[LogFile]]) -> Gathered:
        """Go through the files of each group."""
        readings = self._read(groups)
        self._set_apart([reading for group in readings for reading in group])
        chunks = [chunk for group in readings for reading in group for chunk in reading.chunks]
        sizes = [sum(reading.n_usable for reading in group) for group in readings]
        with self.journal.phase("codes"):
            vocabularies = self._vocabularies(chunks)
            coded, suppressed = self._coded(chunks, vocabularies)
        with self.journal.phase("select"):
            buckets = self._settled(coded, chunks, vocabularies, suppressed)
        return Gathered(vocabularies, buckets, sum(sizes), tuple(accumulate(sizes)))

    def _read(self, groups: Sequence[Sequence[LogFile]]) -> list[list[Reading]]:
        """What the fragments of each group of files gave."""
        columns = resolve_columns(self.options, [file for group in groups for file in group])
        fragments = [[fragment for file in group for fragment in file.fragments()] for group in groups]
        n_files, n_parts = sum(map(len, groups)), sum(map(len, fragments))
        self.journal.say(f"files: {n_files:,}, parts to read: {n_parts:,}")
        n_rows = sum(fragment.n_rows for group in fragments for fragment in group)
        parts = [in_tasks(group, self.budget.chunk_rows) for group in fragments]
        rule, flat = LabelRule(self.options.positive_threshold), [part for group in parts for part in group]

        def task(index: int, part: list[Fragment]) -> Task:
            stem, n_buckets = self.scratch / f"read-{index}", self.budget.id_buckets(n_rows)
            call = partial(read_chunks, part, columns, rule, stem, self.budget.chunk_rows, n_buckets)
            return Task(call, sum(fragment.n_rows for fragment in part))

        with self.journal.phase("read"):
            read = self.runner.run("reading", (task(index, part) for index, part in enumerate(flat)), n_rows)
            readings = iter(list(read))
        result = [[next(readings) for _ in group] for group in parts]
        for group, files in zip(result, groups, strict=True):
            if sum(reading.n_read for reading in group) == 0:
                raise InputError(f"{', '.join(str(file.path) for file in files)}: no rows: give logs with interactions")
        self.journal.counts["files"] = n_files
        return result

    def _set_apart(self, readings: Sequence[Reading]) -> None:
        """Write the quarantine file, and stop when it holds too much or everything."""
        counts, listed = self.journal.counts, self.listed
        n_read = sum(reading.n_read for reading in readings)
        reasons = sum((reading.reasons for reading in readings), Counter[str]())
        bad = bad_tables(readings)
        shown = write_quarantine(
            self.quarantine, bad if listed is None else (without_suppressed(table, listed) for table in bad)
        )
        counts |= {} if listed is None else {"quarantine_scrubbed": reasons.total() - shown}
        counts |= {"rows_read": n_read, "quarantined": dict(sorted(reasons.items()))}
        seconds = self.journal.seconds["read"]
        self.journal.say(f"read {n_read:,} rows in {seconds:.1f} s, {reasons.total():,} of them cannot be used")
        check_share(reasons, n_read, self.options.max_bad_share, self.quarantine)
        if reasons.total() == n_read:
            raise InputError(f"none of the {n_read:,} rows can be used: see {self.quarantine}")
        remove([reading.bad for reading in readings if reading.bad is not None])

    def _vocabularies(self, chunks: Sequence[Chunk]) -> tuple[Vocabulary, ...]:
        """The distinct ids of each id column."""
        names = ("user", "item", *self.options.fields)
        tasks = []
        for table, name in enumerate(names):
            locals_ = [chunk.ids[table] for chunk in chunks]
            for bucket in range(len(locals_[0].bounds) - 1):
                n_ids = sum(int(local.bounds[bucket + 1] - local.bounds[bucket]) for local in locals_)
                path = self.scratch / f"ids-{name}-{bucket}"
                tasks.append(Task(partial(merge_bucket, locals_, bucket, path), n_ids))
        merged = list(self.runner.run("distinct ids", tasks))
        n_buckets = len(merged) // len(names)
        vocabularies = tuple(
            Vocabulary(tuple(merged[table * n_buckets : (table + 1) * n_buckets])) for table in range(len(names))
        )
        for name, vocabulary in zip(names, vocabularies, strict=True):
            vocabulary.check_size(f"column {name}")
        remove([local.path for chunk in chunks for local in chunk.ids])
        return vocabularies

    def _coded(self, chunks: Sequence[Chunk], vocabularies: tuple[Vocabulary, ...]) -> tuple[list[Run], Counter[str]]:
        """The chunks in codes, by buckets of pairs, and how many rows went as their user or item was erased before."""
        masks = [] if self.listed is None else self._masks(vocabularies, self.listed)
        n_buckets = self.budget.buckets(sum(chunk.rows.n_rows for chunk in chunks))

        def task(index: int, chunk: Chunk) -> Task:
            path = self.scratch / f"coded-{index}"
            return Task(partial(code_chunk, chunk, index, vocabularies, masks, path, n_buckets), chunk.rows.n_rows)

        coded = list(self.runner.run("codes", [task(index, chunk) for index, chunk in enumerate(chunks)]))
        remove([chunk.rows for chunk in chunks])
        remove([bucket.codes for vocabulary in vocabularies for bucket in vocabulary.buckets])
        counts = Counter({scope: sum(part.suppressed.get(scope, 0) for part in coded) for scope in SCOPES})
        return [part.run for part in coded], counts

    def _masks(self, vocabularies: tuple[Vocabulary, ...], listed: SuppressionList) -> list[Path]:
        """Files of which users and which items were erased before."""
        paths = [self.scratch / "erased-users.npy", self.scratch / "erased-items.npy"]
        for table, path in enumerate(paths):
            vocabulary = vocabularies[table]
            found = [suppressed_ids(vocabulary, table, bucket, listed) for bucket in range(len(vocabulary.buckets))]
            np.save(path, np.concatenate(found))
        return paths

    def _settled(
        self, coded: list[Run], chunks: Sequence[Chunk], vocabularies: tuple[Vocabulary, ...], suppressed: Counter[str]
    ) -> tuple[Run, ...]:
        """The buckets of rows that stay."""
        starts: NDArray[np.int64] = np.cumsum([0, *(chunk.rows.n_rows for chunk in chunks)])[:-1]
        one_of_each = not self.options.given_split
        suppression = None if self.listed is None else (vocabularies, self.listed)

        def task(bucket: int) -> Task:
            path = self.scratch / f"settled-{bucket}"
            n_rows = sum(int(run.bounds[bucket + 1] - run.bounds[bucket]) for run in coded)
            call = partial(settle_bucket, coded, starts, bucket, path, suppression, one_of_each=one_of_each)
            return Task(call, n_rows)

        runner = self.runner if self.listed is None else self.runner.within_process()
        tasks = [task(bucket) for bucket in range(len(coded[0].bounds) - 1)]
        settled = list(runner.run("pairs", tasks))
        remove(coded)
        for part in settled:
            suppressed.update(part.suppressed)
        self._note(suppressed, sum(part.n_rows for part in settled), sum(part.run.n_rows for part in settled))
        return tuple(part.run for part in settled)

    def _note(self, suppressed: Counter[str], n_rows: int, n_left: int) -> None:
        """Count what was left out, and say so."""
        counts = self.journal.counts
        counts["suppressed"] = None if self.listed is None else {scope: suppressed[scope] for scope in SCOPES}
        if self.listed is not None:
            self.journal.say(f"{suppressed.total():,} rows name what was erased before, and are left out")
        if not self.options.given_split:
            counts["duplicates"] = n_rows - n_left
