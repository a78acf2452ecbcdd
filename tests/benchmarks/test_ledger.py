import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.completeness import PARTS, Config, main
from benchmarks.criteria import Criterion
from benchmarks.ledger import RunLedger
from benchmarks.parts import Case, Part
from benchmarks.plots import plot_shares
from benchmarks.protocol import BOOKCROSSING
from ifru_dist.errors import ConfigError


def refused(*_: Any) -> dict[str, Any]:
    raise AssertionError("the ledger runs nothing")


GAP = Criterion(name="gap", figure=lambda run: run["gap"], nothing=lambda run: 1.0, bound=0.5)
CASE = Case(
    name="case",
    protocol=BOOKCROSSING,
    measure=refused,
    criteria=(GAP,),
    figures={"unlearned": {"gap": lambda run: run["gap"]}},
)
PART = Part(title="A part", cases=(CASE,))


def ledger(path: Path, part: Part = PART) -> RunLedger:
    return RunLedger(path / "measured.json", {"part": part})


def test_runs_are_on_disk_at_once_with_their_command_and_judged(tmp_path: Path) -> None:
    ledger(tmp_path).add("part", "case", 2, 3, "python -m it", {"gap": 0.4})
    record = json.loads((tmp_path / "measured.json").read_text())
    assert record["runs"]["part"]["case"]["2"] == {
        "command": "python -m it",
        "references": 3,
        "reports": {"gap": 0.4},
    }
    (point,) = record["points"]
    assert (point["part"], point["case"], point["met"], point["figure"]["values"]) == ("part", "case", True, [0.4])


def test_a_later_command_adds_to_the_file_and_replaces_a_run_of_its_seed(tmp_path: Path) -> None:
    for seed, gap in ((10, 0.4), (9, 0.6), (10, 0.2)):
        ledger(tmp_path).add("part", "case", seed, 3, "", {"gap": gap})
    assert ledger(tmp_path).runs("part", "case") == {"9": {"gap": 0.6}, "10": {"gap": 0.2}}
    assert ledger(tmp_path).judged("part")["case"][0].figure.mean == pytest.approx(0.4)


def test_what_is_held_depends_on_the_references(tmp_path: Path) -> None:
    ledger(tmp_path).add("part", "case", 1, 3, "", {"gap": 0.4})
    again = ledger(tmp_path)
    assert again.holds("part", "case", 1, 3)
    assert not again.holds("part", "case", 1, 5)
    assert not again.holds("part", "case", 2, 3)
    assert not again.holds("part", "other", 1, 3)


def test_a_run_that_cannot_be_judged_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        ledger(tmp_path).add("part", "case", 1, 3, "", {"other": 0.4})
    assert ledger(tmp_path).runs("part", "case") == {"1": {"other": 0.4}}


def test_tables_show_criteria_and_figures(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.add("part", "case", 1, 3, "", {"gap": 0.4})
    book.add("part", "case", 2, 3, "", {"gap": 0.2})
    title, criteria, figures = book.tables("part").split("\n\n")
    assert title == "### A part"
    assert "| case | gap: at most 0.5 | 1: 0.4, 2: 0.2 | 0.3 ± 0.14 | yes (2 of 2 seeds) | 1 ± 0 |  |" in criteria
    assert "| case | unlearned | 0.3 ± 0.14 |" in figures


def test_shares_are_drawn_beside_the_file(tmp_path: Path) -> None:
    cases = tuple(Case(name=f"{share} %", protocol=BOOKCROSSING, measure=refused) for share in ("10", "0.5"))
    book = ledger(tmp_path, Part(title="", cases=cases, plot=plot_shares))
    for case in cases:
        for seed in (1, 2):
            aucs = {"auc_or": 0.7 + 0.01 * seed, "auc_and": None if seed == 1 else 0.8}
            methods = dict.fromkeys(("original", "unlearned", "retrained"), aucs)
            book.add("part", case.name, seed, 3, "", {"evaluate": {"methods": methods}})
    book.plot("part")
    assert (tmp_path / "measured-part.png").read_bytes().startswith(b"\x89PNG")


def test_every_part_without_its_data_says_so_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"bookcrossing\.parquet.*ml-100k\.parquet.*ml-1m\.parquet: absent"):
        main(Config(data_folder=tmp_path, output=tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_one_reference_has_no_noise_floor() -> None:
    with pytest.raises(ConfigError, match="--references = 1"):
        main(Config(references=1))


def test_cases_of_a_part_differ_in_their_names() -> None:
    for part in PARTS.values():
        names = [case.name for case in part.cases]
        assert len(set(names)) == len(names)
