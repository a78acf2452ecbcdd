"""jobs/train.py: train a model on a workspace, or take one that was trained elsewhere."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import ConfigError
from ifru_dist.evaluation.report import check_output, figure, write_report
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.training.imported import load_embeddings
from ifru_dist.training.loop import Fitted, TrainOptions, fit
from ifru_dist.workspace.commits import NewModel, commit_model
from ifru_dist.workspace.layout import TABLES
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an embedding model on the training interactions of a workspace, or import one with --from."""

    workspace: Path
    """Folder of the workspace."""
    model: Literal["mf", "lightgcn"] = "mf"
    """mf: matrix factorisation; lightgcn: LightGCN on the graph of the training positives."""
    dim: Annotated[int | None, Field(ge=1)] = None
    """Embedding dimension; 48 unless given, that of the file with --from."""
    layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Propagation layers of lightgcn; mf has none."""
    loss: Literal["bce"] = "bce"
    """Loss of one example: binary cross-entropy of its score. With --from: the loss the file was trained with."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """(l2 / 2) * squared norms of an example's rows is added to its loss. With --from: as the file was trained."""
    l2_row: Annotated[float, Field(ge=0)] = 0.0
    """(l2_row / 2) * squared norm of every embedding row, once, is added to the summed loss. With --from: likewise."""
    init_std: Annotated[float, Field(gt=0)] = 1e-3
    """Standard deviation of the initialisation, also of rows that unlearning resets."""
    optimiser: Literal["adam", "lbfgs"] = "adam"
    """adam: mini-batches, stopped early by validation AUC; lbfgs: full batches in float64 to a stationary point."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """Epochs of adam at most; iterations of lbfgs at most, which may need hundreds."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without a better validation AUC after which adam stops."""
    batch_size: Annotated[int, Field(ge=1)] = 2048
    """Interactions per step of adam."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of adam."""
    gradient_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """2-norm of the gradient of the summed objective at which lbfgs stops."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of initialisation and shuffling."""
    from_file: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Embeddings trained elsewhere: npz or safetensors with user, user_ids, item and item_ids (docs/formats.md)."""
    without_erased: bool = False
    """With --from: the file was trained without what this workspace has erased."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/train-VERSION."""


def train(config: TrainConfig) -> int:
    """Run the job: one new version with a model, and a report.

    Raises:
        IfruError: nothing was committed.
    """
    config = validated(config)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, workspace.root / "reports")
    with workspace.lock("train"):
        version = open_version(workspace, check_content=True)
        model, figures = _imported(config, version) if config.from_file else _fitted(config, version)
        number = commit_model(version, model).version
    version = open_version(workspace)
    scorer = Scorer(version.model.spec, version.train(), version.embeddings())
    report = {
        "job": "train",
        "version_before": number - 1,
        "version_after": number,
        "source": model.source,
        "model": asdict(model.spec),
        "valid_auc": scorer.auc(version.held_out("valid")),
        "test_auc": scorer.auc(version.held_out("test")),
        **figures,
        "config": as_dict(config),
    }
    folder = config.output or workspace.root / "reports" / f"train-{number:06d}"
    write_report(folder, report, _summary(report))
    print(f"{_summary(report)}\nreport: {folder}")
    return 0


def _fitted(config: TrainConfig, version: Version) -> tuple[NewModel, dict[str, Any]]:
    """Train on what is left of the training data."""
    spec = _spec(config, config.dim or ModelSpec.dim)
    options = _options(config)
    data, valid = version.train(), version.held_out("valid")
    say(f"training {spec.name} with {spec.dim} dimensions on {len(data)} interactions")
    fitted = fit(spec, version.layout.n_rows, data, valid, options, show_progress=True)
    return _new_model(spec, "trained", options, fitted.embeddings), _figures(fitted)


def _imported(config: TrainConfig, version: Version) -> tuple[NewModel, dict[str, Any]]:
    """Take embeddings from a file."""
    assert config.from_file is not None
    if version.manifest.n_erased and not config.without_erased:
        raise ConfigError(
            f"--from = {config.from_file}: this workspace has erased {version.manifest.n_erased} interactions, which "
            "embeddings trained on them would bring back: import embeddings that were trained without them and say so "
            "with --without-erased, or train anew here"
        )
    ids = [version.ids(table).drop_null().to_numpy(zero_copy_only=False) for table in range(len(TABLES))]
    imported = load_embeddings(config.from_file, dict(zip(TABLES, ids, strict=True)))
    dim = imported.embeddings.shape[1]
    if config.dim not in (None, dim):
        raise ConfigError(f"--dim = {config.dim}: {config.from_file} holds {dim} dimensions: leave --dim out")
    # A forgotten row has no id by which a file could name it, and no interaction that reads it: it holds zeros.
    embeddings = np.zeros((version.layout.n_rows, dim), np.float32)
    embeddings[version.known_rows()] = imported.embeddings
    return _new_model(_spec(config, dim), "imported", _options(config), embeddings), {"ignored_ids": imported.ignored}


def _spec(config: TrainConfig, dim: int) -> ModelSpec:
    """The model that a config names."""
    return ModelSpec(
        name=config.model,
        dim=dim,
        layers=config.layers,
        loss=config.loss,
        l2=config.l2,
        l2_row=config.l2_row,
        init_std=config.init_std,
    )


def _options(config: TrainConfig) -> TrainOptions:
    """How the model, or a reference of it, is trained."""
    return TrainOptions(
        optimiser=config.optimiser,
        epochs=config.epochs,
        patience=config.patience,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        gradient_tolerance=config.gradient_tolerance,
        seed=config.seed,
    )


def _new_model(spec: ModelSpec, source: str, options: TrainOptions, embeddings: NDArray[np.float32]) -> NewModel:
    """A model to commit; the options are kept, so that references can be trained in the same way."""
    return NewModel(spec=spec, source=source, options=asdict(options), seed=options.seed, embeddings=embeddings)


def _figures(fitted: Fitted) -> dict[str, Any]:
    """What training cost and how it went."""
    stationary = {"converged": fitted.converged, "gradient_norm": fitted.gradient_norm, "remedy": fitted.remedy}
    return {
        **(stationary if fitted.converged is not None else {}),
        "best_epoch": fitted.best_epoch,
        "epochs_run": fitted.epochs_run,
        "interactions_per_second": fitted.interactions_per_second,
        "seconds": fitted.seconds,
        "history": fitted.history,
    }


def _summary(report: dict[str, Any]) -> str:
    """The report in words."""
    lines = [
        f"version {report['version_before']} -> {report['version_after']}: {report['source']} "
        f"{report['model']['name']}, {report['model']['dim']} dimensions",
        f"AUC: validation {figure(report['valid_auc'])}, test {figure(report['test_auc'])}",
    ]
    if report["source"] == "trained":
        lbfgs = "converged" in report
        run = "iterations" if lbfgs else f"epochs (best: {report['best_epoch']})"
        lines.append(
            f"{report['epochs_run']} {run} in {report['seconds']:.1f} s, "
            f"{report['interactions_per_second']:,.0f} interactions per second"
        )
        lines += [_stationarity(report)] if lbfgs else []
    return "\n".join(lines)


def _stationarity(report: dict[str, Any]) -> str:
    """How near to a stationary point lbfgs came."""
    norm, tolerance = report["gradient_norm"], report["config"]["gradient_tolerance"]
    if report["converged"]:
        return f"stationary: gradient norm {norm:.2g}, within the tolerance {tolerance:g}"
    return f"not stationary: gradient norm {norm:.2g} is above the tolerance {tolerance:g}: {report['remedy']}"
