"""Erasing from a model that was trained to a stationary point, beside an independent minimisation of the same.

The residual rho is a certificate there. With all rows it has to vanish nearly; with a budget of rows it has to come as
low as those rows allow, which the independent minimisation tells.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.criteria import Criterion, Figure
from benchmarks.parts import Case, Part
from benchmarks.protocol import MOVIELENS_100K
from benchmarks.restricted import TiltedProblem
from benchmarks.trial import Setting, Trial
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.tables import read_delta
from ifru_dist.workspace.version import Version, open_version

SHARE = 0.001
"""Of 60,000 training pairs: the last 60."""
BUDGET = 440
_TRAINING = ("--model", "mf", "--dim", 16, "--optimiser", "lbfgs", "--epochs", 20_000)
_EXACT = ("--damping", 0, "--tolerance", 0.003)


def measure(setting: Setting, l2_row: float) -> dict[str, Any]:
    """Train, erase with all rows and with a budget of rows, and minimise independently over the rows of the latter."""
    trial = Trial(setting, MOVIELENS_100K, share=SHARE, flipped=False)
    trained = trial.train(*_TRAINING, "--l2-row", l2_row)
    few = trial.copy("few")
    unlearned = trial.unlearn(*_EXACT, "--row-budget", "all")
    budgeted = trial.unlearn(*_EXACT, "--row-budget", BUDGET, workspace=few)
    return {"train": trained, "unlearn": unlearned, "budgeted": budgeted, "independent": minimised(few)}


def minimised(root: Path) -> dict[str, Any]:
    """The independent minimisation over the rows that the last batch of a workspace moved."""
    after = open_version(Workspace(root))
    problem = problem_of(after)
    moved = moved_rows(after)
    moved = moved[problem.keeps[moved]]  # the others were reset, which is no part of the solve
    minimum = problem.minimise(moved)
    return {
        "rows": len(moved),
        "rho": minimum.rho,
        "rho_of_the_batch": problem.rho(after.embeddings()),
        "gradient_share": minimum.gradient_share,
        "iterations": minimum.iterations,
    }


def problem_of(after: Version) -> TiltedProblem:
    """What the only batch since training was to minimise."""
    before = after.original()
    examples = before.all_examples()
    return TiltedProblem(examples.rows, examples.labels, ~after.alive(), before.embeddings(), after.model.spec.l2_row)


def moved_rows(version: Version) -> NDArray[np.int64]:
    """Global rows in the delta that a version's batch made."""
    return read_delta(version.workspace.root, version.layout, version.model.deltas[-1])[0]


def _rho(job: str) -> Figure:
    """The influence residual that a job certified."""
    return lambda run: run[job]["influence_residual"]


def _case(l2_row: float, bound: float, all_rows: float, budgeted: float) -> Case:
    """A strength of the regulariser, with the bound of rho and the figures of a first prototype."""
    return Case(
        name=f"l2_row {l2_row:g}",
        protocol=MOVIELENS_100K,
        measure=partial(measure, l2_row=l2_row),
        criteria=(
            Criterion(
                name=f"rho, all rows (prototype: {all_rows:g})",
                figure=_rho("unlearn"),
                nothing=lambda run: 1.0,
                bound=bound,
            ),
            Criterion(
                name=f"|rho / that of a converged minimisation - 1|, {BUDGET} rows",
                figure=lambda run: abs(run["budgeted"]["influence_residual"] / run["independent"]["rho"] - 1),
                nothing=lambda run: abs(1 / run["independent"]["rho"] - 1),
                bound=0.05,
            ),
        ),
        figures={
            "all rows": _figures("unlearn"),
            f"{BUDGET} rows (prototype: {budgeted:g})": _figures("budgeted")
            | {"rho, recomputed densely": lambda run: run["independent"]["rho_of_the_batch"]},
            "independent minimisation": {
                "rho": lambda run: run["independent"]["rho"],
                "rows": lambda run: run["independent"]["rows"],
                "gradient share": lambda run: run["independent"]["gradient_share"],
            },
            "training": {
                "test AUC": lambda run: run["train"]["test_auc"],
                "gradient norm": lambda run: run["train"]["gradient_norm"],
                "seconds": lambda run: run["train"]["seconds"],
            },
        },
    )


def _figures(job: str) -> dict[str, Figure]:
    """What a batch says of itself."""
    return {
        "rho": _rho(job),
        "rows": lambda run: run[job]["rows_updated"],
        "Newton steps": lambda run: run[job]["solver"]["newton_steps"],
        "seconds": lambda run: run[job]["seconds"]["total"],
    }


STATIONARY_PART = Part(
    title="MovieLens-100K, 60 interactions erased from a stationary model",
    cases=(_case(12, 0.01, 0.009, 0.14), _case(5, 0.06, 0.061, 0.31)),
)
