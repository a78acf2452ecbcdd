import json
import math

import pytest

from benchmarks.criteria import Criterion, Run, figures_table, judge

GAP = Criterion(name="gap", figure=lambda run: run["gap"], nothing=lambda run: run["nothing"], bound=0.5)


def runs(gaps: list[float | None], nothing: list[float | None]) -> dict[str, Run]:
    pairs = zip(gaps, nothing, strict=True)
    return {str(seed): {"gap": gap, "nothing": other} for seed, (gap, other) in enumerate(pairs, start=1)}


def test_met_by_the_mean_while_one_seed_misses() -> None:
    judged = judge(GAP, runs([0.3, 0.4, 0.6], [1.0, 1.1, 1.2]))
    assert judged.met
    assert judged.seeds_met == 2
    assert judged.figure.mean == pytest.approx(1.3 / 3)
    assert judged.figure.deviation == pytest.approx(math.sqrt(7 / 300))
    assert judged.nothing_fails
    assert judged.note == ""


def test_not_met() -> None:
    judged = judge(GAP, runs([0.3, 0.8], [1.0, 1.0]))
    assert not judged.met
    assert judged.as_row()["met"] == "NO (1 of 2 seeds)"


def test_at_least() -> None:
    auc = Criterion(
        name="auc", figure=lambda run: run["gap"], nothing=lambda run: run["nothing"], sense="at least", bound=0.5
    )
    assert judge(auc, runs([0.5], [0.4])).met
    assert judge(auc, runs([0.5], [0.4])).nothing_fails
    assert not judge(auc, runs([0.49], [0.6])).met
    assert not judge(auc, runs([0.49], [0.6])).nothing_fails


def test_doing_nothing_that_passes_is_flagged() -> None:
    judged = judge(GAP, runs([0.3], [0.45]))
    assert not judged.nothing_fails
    assert judged.as_row()["note"] == "PROVES NOTHING: doing nothing does not fail it"
    assert judged.as_record()["nothing_fails"] is False


def test_doing_nothing_may_have_to_miss_by_more_than_the_bound() -> None:
    far = Criterion(
        name="distance",
        figure=lambda run: run["gap"],
        nothing=lambda run: run["nothing"],
        bound=0.02,
        nothing_beyond=0.04,
    )
    assert not judge(far, runs([0.01], [0.03])).nothing_fails
    assert judge(far, runs([0.01], [0.05])).nothing_fails


@pytest.mark.parametrize("sense", ["at most", "at least"])
def test_a_lacking_figure_neither_meets_a_criterion_nor_lets_it_prove_something(sense: str) -> None:
    lacking = Criterion(
        name="lacking", figure=lambda run: run["gap"], nothing=lambda run: run["nothing"], sense=sense, bound=0.5
    )
    judged = judge(lacking, runs([0.5, None], [None, 1.0]))
    assert not judged.met
    assert judged.seeds_met == 1
    assert not judged.nothing_fails
    assert json.loads(json.dumps(judged.as_record(), allow_nan=False))["figure"]["mean"] is None


def test_another_control_is_named() -> None:
    control = Criterion(
        name="bits", figure=lambda run: run["gap"], nothing=lambda run: run["nothing"], bound=0, control="one example"
    )
    assert judge(control, runs([0], [9])).note == "fails it: one example"
    assert judge(control, runs([0], [0])).note == "PROVES NOTHING: one example does not fail it"


def test_a_single_seed_has_no_deviation() -> None:
    assert judge(GAP, runs([0.3], [1.0])).figure.deviation is None


def test_rows_of_figures_share_their_columns() -> None:
    rows = {"unlearned": {"gap": lambda run: run["gap"]}, "original": {"nothing": lambda run: run["nothing"]}}
    assert figures_table(rows, runs([1.0, 2.0], [3.0, None])) == [
        {"row": "unlearned", "gap": "1.5 ± 0.71", "nothing": None},
        {"row": "original", "gap": None, "nothing": None},
    ]
