"""How a batch is solved, and how the solve may end."""

from dataclasses import dataclass
from typing import Literal

import torch

from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.preconditioner import PreconditionerKind

Importance = Literal["step", "degree"]
"""By what rows beyond the erased endpoints are chosen: the step each would take, or the paper's degree rule."""

RowBudget = int | Literal["auto", "all"]

AUTO_ROWS = 8
"""Rows for each endpoint that an automatic budget lets in."""

PathKind = Literal["ridge", "flow"]
"""What Lambda holds rows to. ``ridge``: to where they were before the batch, whatever the steps. ``flow``: each step
holds them to where the one before led, as many times as firmly as there are steps."""

FLOW_STEPS = 4
"""Steps of ``flow`` where their number is not given."""

AnchorKind = Literal["degree", "gradient"]
"""What holds a row where it was: Lambda = c * sqrt(deg) by the number of its examples, or c * sqrt(S) by the sum S of
their squared gradients before the batch (docs/method.md)."""

ProductKind = Literal["exact", "pruned"]
"""For graph models: whether curvature products follow a change through the whole graph, or among the selected rows."""

DenseKind = Literal["frozen", "sampled", "full"]
"""What parameters beside the embedding rows do: they stay, or move by a sample of the examples, or by all."""

_SINGLE_TOLERANCE = 1e-5
"""The tightest tolerance for which float32 serves."""

Status = Literal[
    "converged",
    "max_iterations",
    "max_newton_steps",
    "stalled",
    "no_contraction",
    "under_resolution",
    "not_positive_definite",
    "not_finite",
    "no_descent",
    "diverged",
]

REMEDIES: dict[Status, str] = {
    "converged": "",
    "max_iterations": "the update is usable but inexact: raise --max-iterations or --damping",
    "max_newton_steps": "the update is usable, but more steps would remove more: raise --max-newton-steps or --damping",
    "stalled": "the update is usable, but steps ceased to lower the objective before --tolerance was reached: raise "
    "--tolerance or --damping",
    "no_contraction": "",
    "under_resolution": "the influence is smaller than the tables' numbers can express, so no row was moved",
    "not_positive_definite": "the curvature met a direction that is not positive: raise --damping",
    "not_finite": "the model or the product holds values that are not finite: check the embeddings, raise --damping",
    "diverged": "the update would leave twenty times the influence that was there: raise --damping, or take fewer "
    "--newton-steps",
    "no_descent": "no step lowered the objective that the batch minimises: raise --damping",
}

USABLE: tuple[Status, ...] = (
    "converged",
    "max_iterations",
    "max_newton_steps",
    "stalled",
    "no_contraction",
    "under_resolution",
)
"""With these an update may be committed."""


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How a batch is solved."""

    damping: float
    """c of Lambda."""
    anchor: AnchorKind = "degree"
    anchor_scale: float = 1.0
    """What c is multiplied by."""
    temperature: float = 1.0
    """T of the loss T * l(score / T) that takes the loss's place in residual, curvature and certificate."""
    path: PathKind = "ridge"
    newton_steps: int | None = None
    """Steps in each round of rows; None: with ``ridge`` until the gradient is under the tolerance, else FLOW_STEPS."""
    max_newton_steps: int = 30
    """Steps in each round when their number is not given."""
    tolerance: float = 0.1
    """Share of ||r before|| under which the gradient on the selected rows is small enough, and the residual on the
    rows that are not selected."""
    solver_tolerance: float = 0.05
    """Relative residual at which the linear solve of a step stops."""
    max_iterations: int = 200
    """Products per step at most."""
    importance: Importance = "step"
    hops: int = 1
    """With ``degree``: how far from the endpoints rows may lie."""
    quantile: float = 0.0
    """With ``degree``: the share of the rows reached, the least important ones, that stays out."""
    row_budget: RowBudget = "auto"
    """Rows over all workers at most; the endpoints are in even when they are more. ``auto`` with ``step``: only the
    endpoints, or AUTO_ROWS times as many where the model is near a stationary point; with ``degree``: all."""
    curvature: CurvatureKind = "gauss-newton"
    preconditioner: PreconditionerKind = "auto"
    product: ProductKind = "pruned"
    edge_budget: int | None = None
    """Edges of examples that a curvature product may read over all workers; None: all at the selected rows. Residuals
    always read them all."""
    dense: DenseKind = "frozen"
    dense_share: float = 0.1
    """With ``sampled``: the share of the examples without a selected row that the dense parameters are moved by."""
    product_dtype: torch.dtype = torch.float32
    """Of models with closed forms for pairs: type of what is read at the far ends of edges, and of the vectors of
    linear solves. Residuals are float64 sums of differences, so the next Newton step corrects what a solve leaves."""
    storage_dtype: torch.dtype = torch.float32
    """What the tables hold: the update is rounded to it before it is certified."""

    @property
    def dtype(self) -> torch.dtype:
        """``product_dtype``, or float64 where a tolerance asks for more than float32 can tell."""
        asked = min(self.tolerance, self.solver_tolerance)
        return self.product_dtype if asked >= _SINGLE_TOLERANCE else torch.float64

    @property
    def fixed_steps(self) -> int | None:
        """Newton steps where their number is fixed beforehand."""
        return FLOW_STEPS if self.path == "flow" and self.newton_steps is None else self.newton_steps
