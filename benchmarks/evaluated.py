"""Batches that are judged by evaluation against retraining: the criteria of early-stopped models, and their cases."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.criteria import Criterion, Figure, Run
from benchmarks.parts import Case, Part
from benchmarks.plots import plot_shares
from benchmarks.protocol import BOOKCROSSING, MOVIELENS_1M, Protocol
from benchmarks.trial import Setting, Trial

COLUMNS = {
    "test AUC": "auc",
    "AUC_or": "auc_or",
    "AUC_and": "auc_and",
    "gap, erased": "logit_gap_erased",
    "gap, test": "logit_gap_test",
    "membership AUC": "membership_auc",
    "logloss, erased": "logloss_erased",
    "recovery at 10": "recovery_at_10",
    "recovery at 50": "recovery_at_50",
}
"""Figures of each model by their keys in the report; the gap of the retrained models is the noise floor."""


def measure(
    setting: Setting,
    protocol: Protocol,
    share: float,
    flipped: bool,
    training: tuple[object, ...] = (),
    calibrated: bool = True,
) -> dict[str, Any]:
    """Train, calibrate if wanted, erase and evaluate once; all but the training with the jobs' defaults."""
    trial = Trial(setting, protocol, share=share, flipped=flipped)
    reports = {"train": trial.train(*training)}
    if calibrated:
        reports["calibrate"] = trial.calibrate()
    return reports | {"unlearn": trial.unlearn(), "evaluate": trial.evaluate()}


def of_method(method: str, key: str) -> Figure:
    """A figure of the original, the unlearned or the retrained models."""
    return lambda run: run["evaluate"]["methods"][method][key]


def relative_gap(method: str) -> Figure:
    """Logit gap on the erased pairs, as a share of that of doing nothing."""
    return lambda run: _gap(run, method) / _gap(run, "original")


def gap_over_floor(method: str) -> Figure:
    """Logit gap on the erased pairs over the noise floor."""
    return lambda run: _gap(run, method) / run["evaluate"]["noise_floor"]


def loss_distance(method: str) -> Figure:
    """How far the log loss of the erased pairs lies from that of retraining, as a share of the latter."""
    return lambda run: abs(_of(run, method, "logloss_erased") / _of(run, "retrained", "logloss_erased") - 1)


def membership_distance(method: str) -> Figure:
    """How far the membership AUC lies from that of retraining."""
    return lambda run: abs(_of(run, method, "membership_auc") - _of(run, "retrained", "membership_auc"))


def recovered_share(key: str) -> Figure:
    """(unlearned - original) / (retrained - original) of an AUC."""
    return lambda run: run["evaluate"]["recovered_share"][key]["value"]


def criterion(name: str, figure: Any, *key: str, **bounds: Any) -> Criterion:
    """A criterion on the unlearned model, and the same figure of the original one, which is doing nothing."""
    return Criterion(name=name, figure=figure("unlearned", *key), nothing=figure("original", *key), **bounds)


def figures(flipped: bool, *, calibrated: bool = True) -> Mapping[str, Mapping[str, Figure]]:
    """The further figures: of the models, of the batch, and of the calibration where one went before."""
    models: dict[str, dict[str, Figure]] = {
        method: {title: of_method(method, key) for title, key in COLUMNS.items()}
        for method in ("original", "unlearned", "retrained")
    }
    models["original"]["seconds"] = lambda run: run["train"]["seconds"]
    models["retrained"]["seconds"] = lambda run: run["evaluate"]["seconds"]["retrain"]
    models["unlearned"] |= batch_figures()
    if calibrated:
        # The gap on its sample, relative to doing nothing.
        models["unlearned"]["calibration's gap"] = lambda run: (
            run["calibrate"]["gap"] / run["calibrate"]["gap_do_nothing"]
        )
    if flipped:
        models["unlearned"]["recovered, AUC_and"] = recovered_share("auc_and")
    return models


def batch_figures() -> dict[str, Figure]:
    """What the unlearn job says of its batch."""
    return {
        "seconds": lambda run: run["unlearn"]["seconds"]["total"],
        "rho": lambda run: run["unlearn"]["influence_residual"],
        "damping": lambda run: run["unlearn"]["solver"]["damping"],
        "temperature": lambda run: run["unlearn"]["solver"].get("temperature", 1.0),
        "Newton steps": lambda run: run["unlearn"]["solver"]["newton_steps"],
        "rows": lambda run: run["unlearn"]["rows_updated"],
    }


def _of(run: Run, method: str, key: str) -> float:
    """A figure that every run has: erased and touched test pairs are never lacking here."""
    return run["evaluate"]["methods"][method][key]


def _gap(run: Run, method: str) -> float:
    """Logit gap on the erased pairs."""
    return _of(run, method, "logit_gap_erased")


def _case(name: str, protocol: Protocol, share: float, *criteria: Criterion, flipped: bool) -> Case:
    """A case of one batch."""
    run = partial(measure, protocol=protocol, share=share, flipped=flipped)
    return Case(name=name, protocol=protocol, measure=run, criteria=criteria, figures=figures(flipped))


_NEAR = (
    criterion("gap on erased pairs / noise floor", gap_over_floor, bound=1.5),
    criterion("|membership AUC - retraining's|", membership_distance, bound=0.02, nothing_beyond=0.04),
)

BOOKCROSSING_PART = Part(
    title="Book-Crossing, 2 % erased",
    cases=(
        _case(
            "true labels",
            BOOKCROSSING,
            0.02,
            criterion("gap on erased pairs", of_method, "logit_gap_erased", bound=0.27),
            criterion("|logloss of erased pairs / retraining's - 1|", loss_distance, bound=0.1),
            flipped=False,
        ),
        _case(
            "flipped labels",
            BOOKCROSSING,
            0.02,
            criterion("test AUC", of_method, "auc", sense="at least", bound=0.7405),
            criterion("AUC_and", of_method, "auc_and", sense="at least", bound=0.7505),
            criterion("gap on erased pairs / that of doing nothing", relative_gap, bound=0.33),
            flipped=True,
        ),
    ),
)

MOVIELENS_PART = Part(
    title="MovieLens-1M, 0.2 % erased",
    references=5,
    cases=(
        _case("true labels", MOVIELENS_1M, 0.002, *_NEAR, flipped=False),
        _case("flipped labels", MOVIELENS_1M, 0.002, *_NEAR, flipped=True),
    ),
)

SHARES_PART = Part(
    title="Book-Crossing, flipped labels, growing shares erased",
    cases=tuple(
        _case(f"{share:g} %", BOOKCROSSING, share / 100, flipped=True) for share in (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
    ),
    plot=plot_shares,
)
