"""Pruned against exact products: 100 interactions erased from a LightGCN of two layers on MovieLens-1M.

Everything but the products is the same: the model, the batch, the rows that move, and the references.
"""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.criteria import Criterion, Figure, Run
from benchmarks.parts import Case, Part
from benchmarks.protocol import MOVIELENS_1M
from benchmarks.trial import Setting, Trial
from ifru_dist.evaluation.forgetting import logit_gap
from ifru_dist.pipelines.measuring import Measurement
from ifru_dist.pipelines.references import measure_references
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

_SHARE = 100 / 600_125
_TRAINING = ("--model", "lightgcn", "--layers", 2, "--dim", 32)
_VARIANTS: Mapping[str, tuple[object, ...]] = {
    "exact": ("--product", "exact"),
    "pruned": ("--product", "pruned"),
    "pruned, 20,000 edges": ("--product", "pruned", "--edge-budget", 20_000),
}
"""Options of jobs/unlearn.py beside the defaults."""


def measure(setting: Setting) -> dict[str, Any]:
    """Train once, erase the same batch with each kind of product, and retrain the references once for all."""
    trial = Trial(setting, MOVIELENS_1M, share=_SHARE, flipped=False)
    reports: dict[str, Any] = {"train": trial.train(*_TRAINING)}
    roots = {name: trial.copy(f"workspace-{number}") for number, name in enumerate(_VARIANTS)}
    for name, options in _VARIANTS.items():
        reports[name] = trial.unlearn(*options, workspace=roots[name])
    measurements = {name: Measurement(open_version(Workspace(root))) for name, root in roots.items()}
    references, _ = measure_references(measurements["exact"], setting.references, setting.reference_seed)
    scores = [reference.scores.erased for reference in references]
    original = measurements["exact"].version.original()
    do_nothing = measurements["exact"].of_model(original.train(), original.parameters())
    reports["gaps"] = {"original": logit_gap(do_nothing.scores.erased, scores)}
    for name, measurement in measurements.items():
        model = measurement.of_model(measurement.kept, measurement.version.parameters())
        reports["gaps"][name] = logit_gap(model.scores.erased, scores)
    return reports


def _gap(name: str) -> Figure:
    """Logit gap on the erased pairs, relative to that with the exact product."""
    return lambda run: run["gaps"][name] / run["gaps"]["exact"]


def _product_edges(run: Run, name: str) -> int:
    """Edges that all products of a batch read."""
    rounds = run[name]["subgraph"]["rounds"]
    return sum(sum(entry["iterations"]) * entry["edges_per_product"] for entry in rounds)


def _all_edges(run: Run, name: str) -> int:
    """These, and those that the residuals read: one at the start, and one after each step."""
    rounds = run[name]["subgraph"]["rounds"]
    points = sum((1 + len(entry["iterations"])) * entry["edges_per_residual"] for entry in rounds)
    return _product_edges(run, name) + points


def _share_of_exact(count: Callable[[Run, str], int], name: str) -> Figure:
    """A count of edges as a share of that with the exact product."""
    return lambda run: count(run, name) / count(run, "exact")


def _figures(name: str) -> Mapping[str, Figure]:
    """What a kind of product reads, costs and leaves."""
    return {
        "gap / exact product's": _gap(name),
        "edges of products / exact": _share_of_exact(_product_edges, name),
        "edges of products and residuals / exact": _share_of_exact(_all_edges, name),
        "rho": lambda run: run[name]["influence_residual"],
        "seconds": lambda run: run[name]["seconds"]["total"],
    }


def _criteria(name: str) -> tuple[Criterion, ...]:
    """The gap is near that of the exact product, at a tenth of the edges."""
    nothing = _gap("original")
    return (
        Criterion(name=f"{name}: gap / exact product's", figure=_gap(name), nothing=nothing, bound=1.2),
        Criterion(
            name=f"{name}: edges of products / exact",
            figure=_share_of_exact(_product_edges, name),
            nothing=lambda run: 1.0,
            bound=0.1,
        ),
    )


PRUNING_PART = Part(
    title="LightGCN, 2 layers, MovieLens-1M, 100 interactions erased: pruned against exact products",
    cases=(
        Case(
            name="true labels",
            protocol=MOVIELENS_1M,
            measure=measure,
            criteria=tuple(criterion for name in _VARIANTS if name != "exact" for criterion in _criteria(name)),
            figures={name: _figures(name) for name in _VARIANTS}
            | {"doing nothing": {"gap / exact product's": _gap("original")}},
        ),
    ),
)
