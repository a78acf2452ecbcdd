"""Fuzzing: every kind of file that a job reads is damaged in thousands of ways, and read as the job does.

Each damaged file must be refused with a readable error, or read right: as before, or as what its bytes say now. It must
not raise anything else, hang, kill the process, tell an id, or give a wrong answer. Files are read in child processes,
so that one that dies or hangs is seen and named.

    python -m benchmarks.fuzz --inputs 10000 --seed 1 --output benchmarks/results
"""

import multiprocessing
import resource
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import tyro

from benchmarks.damage import damaged
from benchmarks.fuzz_corpus import PERSON, make_corpus
from benchmarks.fuzz_kinds import Kind, kinds_of
from benchmarks.records import keep
from ifru_dist.errors import IfruError

GOOD = ("refused", "as before", "as its bytes say")
"""What may come of a damaged file."""
CHUNK = 200
"""Inputs that one child process reads."""
MEMORY_BYTES = 8 << 30
"""More than this, a child process does not get: a claim of absurd sizes shows as a MemoryError."""
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Damage files of every kind, and see that each is refused or read right."""

    inputs: int = 10_000
    """Damaged files, spread evenly over the kinds."""
    seed: int = 1
    """Seed of the damages; input i is the same whatever the number of inputs."""
    only: tuple[str, ...] = ()
    """Only kinds of files whose names begin with one of these, such as ``requests`` or ``"model: pt"``."""
    hang_s: float = 60.0
    """Seconds after which a file counts as hanging its reader."""
    output: Path | None = None
    """Folder for a dated JSON file with the counts."""


@dataclass(frozen=True)
class Outcome:
    """What came of one damaged file."""

    index: int
    kind: str
    outcome: str
    """One of ``GOOD``, or ``raised``, ``wrong``, ``told an id``, ``hung``, ``crashed``."""
    detail: str = ""


KindsOf = Callable[[Path], Sequence[Kind]]


def main(config: Config) -> int:
    """Run it; returns how many files were neither refused nor read right."""
    start = time.perf_counter()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        make_corpus(corpus)
        kinds = partial(chosen_kinds, config.only)
        outcomes = list(fuzz(corpus, range(config.inputs), seed=config.seed, hang_s=config.hang_s, kinds=kinds))
    failures = [outcome for outcome in outcomes if outcome.outcome not in GOOD]
    seconds = time.perf_counter() - start
    print(_table(outcomes))
    for failure in failures:
        print(f"input {failure.index}, {failure.kind}: {failure.outcome}\n{failure.detail}")
    print(f"{len(outcomes)} damaged files in {seconds:.0f} s, {len(failures)} of them neither refused nor read right")
    if config.output is not None:
        record = {
            "inputs": len(outcomes),
            "seed": config.seed,
            "seconds": round(seconds, 1),
            "outcomes": dict(Counter(outcome.outcome for outcome in outcomes)),
            "by_kind": _counts(outcomes),
            "failures": [vars(failure) for failure in failures],
        }
        keep(config.output, "fuzz", record)
    return len(failures)


def fuzz(
    corpus: Path, indices: Sequence[int], *, seed: int, hang_s: float, kinds: KindsOf = kinds_of
) -> Iterator[Outcome]:
    """Read damaged files in child processes; a new one takes over where one dies.

    Args:
        corpus: Whole files; they are not changed.
        indices: Numbers of the inputs; the kind and the damage of an input follow from seed and number.
        seed: Of the damages.
        hang_s: Seconds for one file.
        kinds: What there is in the corpus.
    """
    names = [kind.name for kind in kinds(corpus)]
    _CONTEXT.set_forkserver_preload(["benchmarks.fuzz_kinds"])
    left = list(indices)
    while left:
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        work = partial(_read_chunk, corpus, left[:CHUNK], seed, kinds, theirs)
        child = _CONTEXT.Process(target=work)
        child.start()
        theirs.close()
        answers = list(_received(ours, hang_s))
        outcomes = [answer for answer in answers if answer is not None]
        yield from outcomes
        if len(outcomes) < len(left[:CHUNK]):  # it died, or hangs
            index, hangs = left[len(outcomes)], len(answers) > len(outcomes)
            if hangs:
                child.kill()
            child.join()
            reason = f"no answer in {hang_s} s" if hangs else f"exit code {child.exitcode}"
            outcomes.append(Outcome(index, names[index % len(names)], "hung" if hangs else "crashed", reason))
            yield outcomes[-1]
        child.join()
        left = left[len(outcomes) :]


def chosen_kinds(only: tuple[str, ...], corpus: Path) -> list[Kind]:
    """The kinds of files whose names begin with one of some texts, or all."""
    return [kind for kind in kinds_of(corpus) if not only or kind.name.startswith(only)]


def _received(connection: Connection, hang_s: float) -> Iterator[Outcome | None]:
    """The outcomes that a child sends until it ends; behind them None, when it does not answer."""
    try:
        while connection.poll(hang_s):
            yield connection.recv()
        yield None
    except EOFError:
        return


def _read_chunk(corpus: Path, indices: Sequence[int], seed: int, kinds: KindsOf, connection: Connection) -> None:
    """In a child process: damage, read, judge, send."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with TemporaryDirectory(prefix="fuzz-child-", dir=corpus.parent) as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(corpus, copy)
        reader = _Reader(corpus, copy, kinds(corpus), seed)
        for index in indices:
            connection.send(reader.outcome(index))
    connection.close()


class _Reader:
    """Reads damaged copies of the files of a corpus."""

    def __init__(self, corpus: Path, copy: Path, kinds: Sequence[Kind], seed: int) -> None:
        self._corpus, self._copy, self._kinds, self._seed = corpus, copy, kinds, seed
        self._others = [(corpus / kind.path).read_bytes() for kind in kinds]
        self._before: dict[str, Any] = {}

    def outcome(self, index: int) -> Outcome:
        """What comes of one damaged file; afterwards the copy is whole again."""
        kind = self._kinds[index % len(self._kinds)]
        path, whole = self._copy / kind.path, self._others[index % len(self._kinds)]
        if kind.name not in self._before:
            self._before[kind.name] = kind.read(self._copy)
        path.write_bytes(damaged(whole, self._others, Random(f"{self._seed} {index}")))
        try:
            return Outcome(index, kind.name, *self._judged(kind))
        finally:
            path.write_bytes(whole)

    def _judged(self, kind: Kind) -> tuple[str, str]:
        """Read a file and judge what comes of it."""
        try:
            content = kind.read(self._copy)
        except IfruError as error:
            return ("told an id", str(error)) if PERSON in str(error) else ("refused", "")
        except Exception:  # whatever a reader lets through is what is looked for
            return "raised", traceback.format_exc(limit=-6)
        if content == self._before[kind.name]:
            return "as before", ""
        if kind.is_valid is not None and kind.is_valid(content, self._copy):
            return "as its bytes say", ""
        return "wrong", repr(content)[:1000]


def _table(outcomes: Sequence[Outcome]) -> str:
    """Counts by kind and outcome."""
    lines = [f"{'':<28} {'inputs':>7}" + "".join(f" {name:>16}" for name in (*GOOD, "other"))]
    for kind, counts in _counts(outcomes).items():
        good = [counts.get(name, 0) for name in GOOD]
        total = sum(counts.values())
        lines.append(f"{kind:<28} {total:>7}" + "".join(f" {count:>16}" for count in (*good, total - sum(good))))
    return "\n".join(lines)


def _counts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """How often each outcome came of each kind."""
    kinds = dict.fromkeys(outcome.kind for outcome in outcomes)
    return {kind: dict(Counter(o.outcome for o in outcomes if o.kind == kind)) for kind in kinds}


if __name__ == "__main__":
    raise SystemExit(min(main(tyro.cli(Config)), 1))
