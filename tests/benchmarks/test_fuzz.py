"""Damaged files are refused or read right; and a reader that does anything else is noticed by the fuzzer."""

import ctypes
import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks import fuzz as fuzzing
from benchmarks.damage import damaged
from benchmarks.fuzz import GOOD, Config, chosen_kinds, fuzz, main
from benchmarks.fuzz_corpus import PERSON, make_corpus
from benchmarks.fuzz_kinds import Kind, kinds_of
from ifru_dist.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "corpus"
    folder.mkdir()
    make_corpus(folder)
    return folder


def test_files_of_every_kind_are_refused_or_read_right(corpus: Path) -> None:
    outcomes = list(fuzz(corpus, range(300), seed=2026, hang_s=60))
    assert [outcome for outcome in outcomes if outcome.outcome not in GOOD] == []
    assert [outcome.index for outcome in outcomes] == list(range(300))
    assert {outcome.kind for outcome in outcomes} == {kind.name for kind in kinds_of(corpus)}
    counts = Counter(outcome.outcome for outcome in outcomes)
    assert all(counts[name] > 0 for name in GOOD)


def test_whole_files_of_every_kind_are_read(corpus: Path) -> None:
    for kind in kinds_of(corpus):
        content = kind.read(corpus)
        assert content == kind.read(corpus)
        assert kind.is_valid is None or kind.is_valid(content, corpus)


def test_every_file_of_the_workspace_is_of_a_kind(corpus: Path) -> None:
    stems = {kind.path.rpartition("-")[0] for kind in kinds_of(corpus) if kind.path.startswith("ws/")}
    files = [path.relative_to(corpus).as_posix() for path in (corpus / "ws").rglob("*.arrow")]
    assert {name.rpartition("-")[0] for name in files} <= stems


def test_kinds_are_chosen_by_the_beginning_of_their_names(corpus: Path) -> None:
    assert [kind.name for kind in chosen_kinds(("requests", "ids: c"), corpus)] == [
        *("requests: parquet", "requests: csv", "requests: jsonl", "ids: csv")
    ]
    assert chosen_kinds((), corpus) == kinds_of(corpus) or len(chosen_kinds((), corpus)) == len(kinds_of(corpus))


# ----------------------------------------------------------------------------------------------- what must be noticed


def _crash() -> str:
    ctypes.string_at(0)
    return ""


def _hang() -> str:
    time.sleep(60)
    return ""


def _raise() -> str:
    raise KeyError("column")


def _ask_for_absurd_memory() -> str:
    return str(len(bytes(2**40)))


def _tell() -> str:
    raise InputError(f"no such user: {PERSON}007")


_SINS = {
    "crashed": _crash,
    "hung": _hang,
    "raised": _raise,
    "raised ": _ask_for_absurd_memory,
    "told an id": _tell,
    "wrong": lambda: "changed",
}


def _sinful_kinds(corpus: Path) -> list[Kind]:
    """For each sin a reader that commits it when its file is damaged."""
    whole = (corpus / "requests.csv").read_bytes()

    def reader(sin: str) -> Any:
        return lambda folder: "" if (folder / "requests.csv").read_bytes() == whole else _SINS[sin]()

    return [Kind(sin, "requests.csv", reader(sin)) for sin in _SINS]


def test_what_is_neither_refused_nor_read_right_is_noticed(corpus: Path) -> None:
    n_inputs = len(_SINS) * 2
    outcomes = list(fuzz(corpus, range(n_inputs), seed=1, hang_s=2, kinds=_sinful_kinds))
    assert [outcome.index for outcome in outcomes] == list(range(n_inputs))
    assert [outcome.outcome for outcome in outcomes] == [outcome.kind.strip() for outcome in outcomes]
    details = {outcome.kind: outcome.detail for outcome in outcomes}
    assert details["crashed"] == "exit code -11"
    assert "MemoryError" in details["raised "]
    assert "KeyError: 'column'" in details["raised"]
    assert details["wrong"] == "'changed'"


def test_the_run_is_kept_with_its_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "kinds_of", _sinful_kinds)
    monkeypatch.setattr(fuzzing, "_CONTEXT", fuzzing.multiprocessing.get_context("fork"))
    only = ("told", "wrong")
    assert main(Config(inputs=4, only=only, output=tmp_path)) == 4
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert (record["inputs"], record["seed"]) == (4, 1)
    assert record["outcomes"] == {"told an id": 2, "wrong": 2}
    assert record["by_kind"] == {"told an id": {"told an id": 2}, "wrong": {"wrong": 2}}
    assert [failure["index"] for failure in record["failures"]] == [0, 1, 2, 3]


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 5])
def test_damage_always_changes_something_and_follows_from_the_seed(content: bytes) -> None:
    others = [b"other", b"x" * 300]
    for seed in range(200):
        changed = damaged(content, others, Random(seed))
        assert changed != content
        assert changed == damaged(content, others, Random(seed))


def test_damages_are_of_many_kinds() -> None:
    content = bytes(range(256))
    changed = [damaged(content, [b"\xaa" * 50], Random(seed)) for seed in range(500)]
    assert {len(each) - len(content) < 0 for each in changed} == {True, False}
    assert any(len(each) == 256 and sum(a != b for a, b in zip(each, content, strict=True)) == 1 for each in changed)
    assert any(b"\xaa" * 10 in each for each in changed)
    assert any(b"\xff\xff\xff\xff\xff\xff\xff\x7f" in each for each in changed)
