"""The options by which jobs say how a batch is solved."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ifru_dist.errors import ConfigError
from ifru_dist.influence.damping import DEFAULT_DAMPING, adam_scale
from ifru_dist.influence.objective import CurvatureKind
from ifru_dist.influence.options import AnchorKind, DenseKind, Importance, PathKind, ProductKind, SolveOptions
from ifru_dist.influence.preconditioner import PreconditionerKind
from ifru_dist.models.base import dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.manifest import Calibration, ModelRecord


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
    path: Literal["auto"] | PathKind = "auto"
    """ridge: every step holds rows to where they were before the batch; flow: to where the step before led, as many
    times as firmly as there are steps, as training that was stopped early moved them; auto: flow with the anchor
    gradient."""
    newton_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Newton steps in each round of rows; auto: until --tolerance is reached, or 4 of a flow."""
    max_newton_steps: Annotated[int, Field(ge=1)] = 30
    """Steps in each round at most with --newton-steps auto."""
    curvature: CurvatureKind = "gauss-newton"
    """gauss-newton: positive semi-definite; hessian: all of the second derivative, inside a trust region."""
    product: ProductKind = "pruned"
    """Of graph models: pruned: curvature products follow a change among the rows that move, and the report says what
    that leaves out; exact: through the whole graph. What is to be removed is always found exactly."""
    edge_budget: Annotated[int | None, Field(ge=1)] = None
    """Edges of examples that a curvature product may read: past it the examples of hubs are sampled."""
    dense: DenseKind = "frozen"
    """Of models with parameters beside their embedding rows: frozen: these stay; full: they move, too, by all examples;
    sampled: by those of the rows that move and a seeded sample of the others. Not for graph models."""
    dense_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """With --dense sampled: the share of the other examples that is read."""
    anchor: Literal["auto"] | AnchorKind = "auto"
    """What holds rows where they were. degree: c * sqrt(degree); gradient: c * sqrt(sum of the examples' squared
    gradients), where 1 is what Adam's options say; auto: gradient for all but mf where adam trained here."""
    preconditioner: PreconditionerKind = "auto"
    """Of the conjugate gradients: the diagonal, the rows' d x d blocks (of mf alone), or auto: the
    diagonal until a step takes more iterations than the blocks cost."""
    solver_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Relative residual at which the linear solve of a Newton step stops; the next step corrects what is left of it."""
    precision: Literal["auto", "double"] = "auto"
    """auto: factorisation computes its edges in float32, with float64 sums, unless a tolerance is under 0.00001;
    double: all in float64."""
    max_iterations: Annotated[int, Field(ge=1)] = 200
    """Conjugate gradient iterations per Newton step at most."""

    def solver_settings(self) -> dict[str, Any]:
        """These options by name, as a calibration records them."""
        return {field.name: getattr(self, field.name) for field in fields(SolveFlags)}

    def check_model(self, spec: ModelSpec) -> None:
        """Raise ConfigError where an option does not fit a model."""
        model = build_model(spec)
        layers, described = len(model.layer_weights) - 1, f"{spec.name} with the loss {spec.loss}"
        if self.preconditioner == "block" and (layers or not model.dot_product):
            raise ConfigError(
                f"--preconditioner = block: {described} has no blocks of single rows: use auto (the diagonal)"
            )
        if self.dense != "frozen" and (layers or not dense_parameters(model, 0)):
            reason = "graph models keep theirs" if layers else "it has none beside its embedding rows"
            raise ConfigError(f"--dense = {self.dense}: {described} moves no such parameters ({reason}): use frozen")
        if self.dense != "frozen" and self.edge_budget is not None:
            raise ConfigError(
                f"--edge-budget = {self.edge_budget}: with --dense {self.dense} every product reads the examples that "
                "the parameters are moved by: leave one of the two out"
            )

    def solve_options(self, damping: "ChosenDamping") -> SolveOptions:
        """The options with a damping."""
        return SolveOptions(
            damping=damping.value,
            anchor=damping.anchor.kind,
            anchor_scale=damping.anchor.scale,
            temperature=damping.temperature,
            importance=self.importance,
            row_budget=self.row_budget,
            hops=self.hops,
            quantile=self.quantile,
            tolerance=self.tolerance,
            path=self._path(damping.anchor.kind),
            newton_steps=None if self.newton_steps == "auto" else self.newton_steps,
            max_newton_steps=self.max_newton_steps,
            curvature=self.curvature,
            product=self.product,
            edge_budget=self.edge_budget,
            dense=self.dense,
            dense_share=self.dense_share,
            preconditioner=self.preconditioner,
            solver_tolerance=self.solver_tolerance,
            max_iterations=self.max_iterations,
            product_dtype=torch.float64 if self.precision == "double" else torch.float32,
        )

    def _path(self, anchor: AnchorKind) -> PathKind:
        """The path of a batch whose rows are held by an anchor."""
        if self.path == "auto":
            return "flow" if anchor == "gradient" else "ridge"
        return self.path


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """What holds rows where they were, and the unit of its c."""

    kind: AnchorKind
    scale: float = 1.0

    @property
    def default(self) -> float:
        """The c without calibration."""
        return DEFAULT_DAMPING if self.kind == "degree" else 1.0


@dataclass(frozen=True, kw_only=True)
class ChosenDamping:
    """The c of a batch and where it comes from."""

    value: float
    source: Literal["given", "calibrated", "default"]
    anchor: Anchor
    temperature: float = 1.0
    note: str = ""
    """What is doubtful about it."""


def plain_dot_product(spec: ModelSpec) -> bool:
    """Whether a model is matrix factorisation and nothing else: for it the default of the ``degree`` form was found."""
    model = build_model(spec)
    return model.dot_product and len(model.layer_weights) == 1


def chosen_anchor(model: ModelRecord, flags: SolveFlags) -> Anchor:
    """The anchor that the flags ask for, or by themselves the one that fits a model.

    Raises:
        ConfigError: it is to follow from Adam's options, which are not known.
    """
    adam = model.source == "trained" and model.epochs is not None and model.options.get("optimiser") == "adam"
    by_itself: AnchorKind = "degree" if plain_dot_product(model.spec) or not adam else "gradient"
    if (by_itself if flags.anchor == "auto" else flags.anchor) == "degree":
        return Anchor(kind="degree")
    if not adam or model.epochs is None or model.epoch_examples is None:
        raise ConfigError(
            f"--anchor = {flags.anchor}: the model was not trained by adam here, so its scale is not known: use degree"
        )
    batches = max(1.0, model.epoch_examples / model.options["batch_size"])
    return Anchor(kind="gradient", scale=adam_scale(model.options["learning_rate"], model.epochs, batches))


def chosen_damping(
    given: Literal["auto"] | float, temperature: Literal["auto"] | float, model: ModelRecord, flags: SolveFlags
) -> ChosenDamping:
    """The damping and temperature that were given; with auto those of the model's calibration, or else the defaults."""
    anchor, known = chosen_anchor(model, flags), model.calibration
    calibrated = known is not None and known.anchor == anchor.kind
    heat = (known.temperature if known and calibrated else 1.0) if temperature == "auto" else temperature
    if given != "auto":
        return ChosenDamping(value=given, source="given", anchor=anchor, temperature=heat)
    if known is None or not calibrated:
        note = _without_calibration(known, model.spec)
        return ChosenDamping(value=anchor.default, source="default", anchor=anchor, temperature=heat, note=note)
    note = _doubts(known, heat, flags)
    return ChosenDamping(value=known.damping, source="calibrated", anchor=anchor, temperature=heat, note=note)


def _without_calibration(known: Calibration | None, spec: ModelSpec) -> str:
    """What is doubtful about a default damping."""
    if known is not None:
        return f"the damping was calibrated for --anchor {known.anchor}: calibrate with this one"
    # On Gowalla the default erased too much: LightGCN lost a sixth of its recall@20.
    doubt = "with bpr the default damping may be far off: compare with jobs/evaluate.py --against retrain"
    return doubt if spec.loss == "bpr" else ""


def _doubts(known: Calibration, temperature: float, flags: SolveFlags) -> str:
    """In what a batch differs from what its damping was calibrated with; its anchor is the same under any name."""
    used, now = known.solver, flags.solver_settings()
    differ = ", ".join(name for name in now if name != "anchor" and name in used and used[name] != now[name])
    if differ:
        return f"the damping was calibrated with other solver options ({differ}): run jobs/calibrate.py with these"
    if temperature != known.temperature:
        return f"the damping was calibrated at --temperature {known.temperature:g}: run jobs/calibrate.py with this one"
    return ""
