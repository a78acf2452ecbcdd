"""The options by which jobs say how a batch is solved."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from ifru_dist.errors import ConfigError
from ifru_dist.influence.damping import DEFAULT_DAMPING
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.options import Importance, SolveOptions
from ifru_dist.influence.preconditioner import PreconditionerKind
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.manifest import ModelRecord


@dataclass(frozen=True, kw_only=True)
class SolveFlags:
    """Options of jobs that solve batches."""

    importance: Importance = "step"
    """Which rows move besides the erased endpoints. step: in rounds, those with the longest step of their own; degree:
    those within --hops by the paper's rule."""
    row_budget: Literal["auto", "all"] | Annotated[int, Field(ge=0)] = "auto"
    """Rows that may move at most; the erased endpoints always may, so with 0 only they do, and resets come on top.
    auto: the endpoints only, or 8 times as many where the model is near a stationary point of its training."""
    hops: Annotated[int, Field(ge=0, le=3)] = 1
    """With --importance degree: how far from the erased endpoints rows may lie."""
    quantile: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """With --importance degree: the share of the rows reached, the least important ones, that stays where it is."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the influence that is small enough: rounds end when the rows outside hold less of it, and Newton steps
    (auto) when the rows inside do."""
    newton_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Anchored Newton steps in each round of rows; auto: until --tolerance is reached."""
    max_newton_steps: Annotated[int, Field(ge=1)] = 30
    """Steps in each round at most with --newton-steps auto."""
    curvature: CurvatureKind = "gauss-newton"
    """gauss-newton: positive semi-definite; hessian: all of the second derivative, inside a trust region."""
    preconditioner: PreconditionerKind = "auto"
    """Of the conjugate gradients: the diagonal, the rows' d x d blocks (not for lightgcn, which has none), or auto: the
    diagonal until a step takes more iterations than the blocks cost."""
    solver_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Relative residual at which the linear solve of a Newton step stops; the next step corrects what is left of it."""
    max_iterations: Annotated[int, Field(ge=1)] = 200
    """Conjugate gradient iterations per Newton step at most."""

    def solver_settings(self) -> dict[str, Any]:
        """These options by name, as a calibration records them."""
        return {field.name: getattr(self, field.name) for field in fields(SolveFlags)}

    def check_model(self, spec: ModelSpec) -> None:
        """Raise ConfigError where an option does not fit a model."""
        if self.preconditioner == "block" and spec.name == "lightgcn":
            raise ConfigError(
                "--preconditioner = block: lightgcn has no blocks of single rows: use diagonal, or auto, which takes it"
            )

    def solve_options(self, damping: float) -> SolveOptions:
        """The options with c = ``damping``."""
        return SolveOptions(
            damping=damping,
            importance=self.importance,
            row_budget=self.row_budget,
            hops=self.hops,
            quantile=self.quantile,
            tolerance=self.tolerance,
            newton_steps=None if self.newton_steps == "auto" else self.newton_steps,
            max_newton_steps=self.max_newton_steps,
            curvature=self.curvature,
            preconditioner=self.preconditioner,
            solver_tolerance=self.solver_tolerance,
            max_iterations=self.max_iterations,
        )


@dataclass(frozen=True, kw_only=True)
class ChosenDamping:
    """The c of a batch and where it comes from."""

    value: float
    source: Literal["given", "calibrated", "default"]
    note: str = ""
    """What is doubtful about it."""


def chosen_damping(given: Literal["auto"] | float, model: ModelRecord, flags: SolveFlags) -> ChosenDamping:
    """The damping that was given; with auto that of the model's calibration, or the default where there is none."""
    if given != "auto":
        return ChosenDamping(value=given, source="given")
    if model.calibration is None:
        return ChosenDamping(value=DEFAULT_DAMPING, source="default")
    used, now = model.calibration.solver, flags.solver_settings()
    differ = ", ".join(name for name in now if name in used and used[name] != now[name])
    note = f"the damping was calibrated with other solver options ({differ}): run jobs/calibrate.py with these"
    return ChosenDamping(value=model.calibration.damping, source="calibrated", note=note if differ else "")
