"""jobs/train.py: train a model on a workspace, or take one that was trained elsewhere."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import ConfigError, InputError
from ifru_dist.evaluation.report import check_output, figure, write_report
from ifru_dist.evaluation.top_k import CUTOFF
from ifru_dist.models.base import dense_parameters
from ifru_dist.models.checking import check_new_model
from ifru_dist.models.factory import build_model
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import Draws, LossName, ModelName, ModelSpec, Width
from ifru_dist.pipelines.catching_up import CatchingUp, CatchUpFlags, caught_up_report, solver_in_words
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.pipelines.suppressing import key_and_list
from ifru_dist.pipelines.unlearn import RETRAINING_DUE
from ifru_dist.pipelines.validating import top_k_question, validation_of
from ifru_dist.training.imported import load_embeddings
from ifru_dist.training.loop import Fitted, TrainOptions, fit
from ifru_dist.training.validation import Validation
from ifru_dist.workspace.commits import NewModel, commit_adoption, commit_model, written_model
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

_OF_UNLEARNING = (
    *("interactions_erased", "rows_updated", "rows_forgotten", "workers", "subgraph", "solver", "influence_residual"),
    *("residual_budget", "bytes_exchanged", "seconds", "failed_attempts"),
)
"""What the report tells of what was unlearned from a model that was trained elsewhere."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an embedding model on the training interactions of a workspace, or import one with --from."""

    workspace: Path
    """Folder of the workspace."""
    model: ModelName = "mf"
    """mf: matrix factorisation; biased-mf: with biases; lightgcn: LightGCN on the graph of the training positives;
    neumf: a small neural tower beside a product; fm: factorisation machine, for workspaces with further fields; or a
    class of your own as package.module:Class (docs/models.md)."""
    dim: Width | None = None
    """Embedding dimension; 48 unless given, that of the file with --from."""
    layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Propagation layers of lightgcn; others have none."""
    hidden: tuple[Width, ...] = (32, 16)
    """Widths of neumf's hidden layers; others have none."""
    loss: LossName = "bce"
    """Loss of one example: bce, binary cross-entropy of its score; squared, half the squared error of its score; bpr,
    how its score compares with that of a drawn negative, where interactions with the label 0 are left out. With --from:
    the loss the file was trained with."""
    negatives: Draws = 4
    """With bpr: negatives of each positive in what lbfgs and unlearning minimise; adam draws one in each epoch."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """(l2 / 2) * squared norms of an example's rows is added to its loss. With --from: as the file was trained."""
    l2_row: Annotated[float, Field(ge=0)] = 0.0
    """(l2_row / 2) * squared norm of every embedding row, once, is added to the summed loss. With --from: likewise."""
    l2_dense: Annotated[float, Field(ge=0)] = 0.0
    """(l2_dense / 2) * squared norm of a model's parameters beside its rows, once, is added to the summed loss: without
    it neumf has no stationary point, as its rows shrink while its tower grows. With --from: likewise."""
    init_std: Annotated[float, Field(gt=0)] = 1e-3
    """Standard deviation of the initialisation, also of rows that unlearning resets."""
    optimiser: Literal["adam", "lbfgs"] = "adam"
    """adam: mini-batches, stopped early by the validation pairs' AUC, or by the recall of their users among all items
    where all are positives; lbfgs: full batches in float64 to a stationary point."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """Epochs of adam at most, and exactly without validation pairs; iterations of lbfgs at most, it may need
    hundreds."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without a better validation figure after which adam stops."""
    batch_size: Annotated[int, Field(ge=1)] = 2048
    """Examples per step of adam."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of adam."""
    gradient_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """2-norm of the gradient of the summed objective at which lbfgs stops."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of initialisation, shuffling and drawn negatives."""
    from_file: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A model trained elsewhere: npz, safetensors or a torch state dict, with ids (docs/formats.md)."""
    from_ids: Path | None = None
    """With --from, for a file without ids: folder of user_list.txt and item_list.txt, or user_ids and item_ids.csv."""
    without_erased: bool = False
    """With --from: the file was trained without what this workspace has erased."""
    trained_on: Annotated[int | None, Field(ge=1)] = None
    """With --from: the file was trained on the data of this version. What was erased since is unlearned from it, with
    the defaults of jobs/unlearn.py, before it becomes current."""
    workers: Annotated[int, Field(ge=0)] = 2
    """With --trained-on: workers that unlearn together; 0: one in this process, without Ray."""
    key_file: Path | None = None
    """With --from: key of the audit digests, to count ids of the file that were erased; default: beside the workspace,
    its name with .key."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/train-VERSION."""


def train(config: TrainConfig) -> int:
    """Run the job: one new version with a model, and a report.

    Raises:
        IfruError: nothing was committed.
    """
    config = validated(config)
    if config.from_ids and not config.from_file:
        raise ConfigError(f"--from-ids = {config.from_ids}: gives the ids of the rows of a file: add --from FILE")
    _check_trained_on(config)
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, workspace.root / "reports")
    with workspace.lock("train"):
        version = open_version(workspace, check_content=True)
        check_new_model(build_model(_spec(config, version, config.dim or ModelSpec.dim)))
        figures, status = _made(config, version)
    version = open_version(workspace)
    number, model = version.manifest.version, version.model
    report = {
        "job": "train",
        "version_before": number - 1,
        "version_after": number,
        "source": model.source,
        "model": asdict(model.spec),
        "left_out": left_out(version),
        **_quality(version),
        **figures,
        "config": as_dict(config),
    }
    folder = config.output or workspace.root / "reports" / f"train-{number:06d}"
    write_report(folder, report, _summary(report))
    print(f"{_summary(report)}\nreport: {folder}")
    return status


def left_out(version: Version) -> dict[str, int]:
    """What of a version's data no model gets, because it was erased."""
    return {"interactions": version.manifest.n_erased, "users_and_items": len(version.forgotten_rows())}


def _check_trained_on(config: TrainConfig) -> None:
    """See that the options say one thing about the data of a file."""
    if config.trained_on is None:
        return
    if not config.from_file:
        raise ConfigError(f"--trained-on = {config.trained_on}: says of what data a file was made: add --from FILE")
    if config.without_erased:
        raise ConfigError(
            f"--trained-on = {config.trained_on} with --without-erased: the one says that what was erased since is "
            "still in the file, the other that it is not: leave one out"
        )


def _made(config: TrainConfig, version: Version) -> tuple[dict[str, Any], int]:
    """Commit a model on the data of a version: figures for the report, and the job's exit status."""
    if config.trained_on is not None:
        return _adopted(config, version, config.trained_on)
    model, figures = _imported(config, version) if config.from_file else _fitted(config, version)
    commit_model(version, model)
    return figures, 0


def _adopted(config: TrainConfig, version: Version, number: int) -> tuple[dict[str, Any], int]:
    """Take a model that was trained elsewhere on the data of a version, and unlearn from it what was erased since."""
    older = open_version(version.workspace, number, check_content=True)
    model, figures = _of_file(config, older)
    lent = older.with_model(written_model(older, model, version.manifest.version + 1))
    flags = CatchUpFlags(workers=config.workers)
    commit, summary = partial(commit_adoption, version, lent), {"source": model.source, "trained_on": number}
    result = CatchingUp(flags, version, lent).run(commit, dict[str, object](summary))
    result.seconds["job"] = sum(result.seconds.values())
    told = caught_up_report(result, flags)
    figures["unlearned"] = {name: told[name] for name in _OF_UNLEARNING} | {"words": result.residual_budget.in_words()}
    return figures, RETRAINING_DUE if result.residual_budget.retraining_due else 0


def _fitted(config: TrainConfig, version: Version) -> tuple[NewModel, dict[str, Any]]:
    """Train on what is left of the training data."""
    spec = _spec(config, version, config.dim or ModelSpec.dim)
    options, data = _options(config), version.train()
    validation = validation_of(version, spec, data)
    say(f"training {spec.name} with {spec.dim} dimensions on {len(data)} interactions")
    if validation is None and options.optimiser == "adam":
        say(f"nothing to validate with: all {options.epochs} epochs are trained, and the last is kept")
    forgotten = version.forgotten_rows()
    fitted = fit(spec, version.layout.sizes, data, validation, options, forgotten=forgotten, show_progress=True)
    model = _new_model(spec, "trained", options, fitted.parameters)
    model = replace(model, epochs=fitted.best_epoch, epoch_examples=fitted.epoch_examples)
    return model, _figures(fitted, validation)


def _imported(config: TrainConfig, version: Version) -> tuple[NewModel, dict[str, Any]]:
    """Take embeddings from a file."""
    assert config.from_file is not None
    if version.manifest.n_erased and not config.without_erased:
        raise ConfigError(
            f"--from = {config.from_file}: this workspace has erased {version.manifest.n_erased} interactions, which "
            "embeddings trained on them would bring back: import embeddings that were trained without them and say so "
            "with --without-erased, name the version they were trained on with --trained-on, or train anew here"
        )
    return _of_file(config, version)


def _of_file(config: TrainConfig, version: Version) -> tuple[NewModel, dict[str, Any]]:
    """The embeddings of a file for all that a version knows, and how many of its ids that does not."""
    assert config.from_file is not None
    tables = version.layout.tables
    ids = [version.ids(table).drop_null().to_numpy(zero_copy_only=False) for table in range(len(tables))]
    load = partial(load_embeddings, config.from_file, dict(zip(tables, ids, strict=True)), ids_from=config.from_ids)
    imported = load()
    spec = _spec(config, version, _dim_of_file(config, version, imported.embeddings.shape[1]))
    expected = {name: tuple(values.shape) for name, values in dense_parameters(build_model(spec), config.seed).items()}
    imported = load(expected_dense=expected)  # whose shapes were not known before
    # A forgotten row has no id by which a file could name it, and no interaction that reads it: it holds zeros.
    embeddings = np.zeros((version.layout.n_rows, imported.embeddings.shape[1]), np.float32)
    embeddings[version.known_rows()] = imported.embeddings
    parameters = Parameters(embeddings, imported.dense)
    return _new_model(spec, "imported", _options(config), parameters), {
        "ignored_ids": imported.ignored,
        "ignored_erased": _erased_among(config, version, imported.unknown),
    }


def _erased_among(config: TrainConfig, version: Version, unknown: dict[str, list[str]]) -> dict[str, int] | None:
    """How many users and items of a file are left out because they were erased; None where there is no key to tell."""
    workspace = version.workspace
    if not workspace.manifest().suppression:
        return {"user": 0, "item": 0}
    if config.key_file is None and not workspace.default_key_file.exists():
        return None
    listed = key_and_list(workspace, config.key_file)[1]
    held = {"user": listed.holds_users(unknown["user"]), "item": listed.holds_items(unknown["item"])}
    return {table: int(mask.sum()) for table, mask in held.items()}


def _dim_of_file(config: TrainConfig, version: Version, width: int) -> int:
    """The dimension of the model whose rows have as many columns as a file's."""
    dims = [dim for dim in range(1, width + 1) if build_model(_spec(config, version, dim)).width == width]
    if not dims:
        raise InputError(
            f"{config.from_file}: rows of {width} columns, which {config.model} has with no --dim: check --model"
        )
    if config.dim not in (None, *dims):
        raise ConfigError(f"--dim = {config.dim}: {config.from_file} holds {dims[0]} dimensions: leave --dim out")
    return config.dim or dims[0]


def _spec(config: TrainConfig, version: Version, dim: int) -> ModelSpec:
    """The model that a config names, for a workspace."""
    return ModelSpec(
        name=config.model,
        dim=dim,
        layers=config.layers,
        hidden=config.hidden,
        fields=len(version.layout.tables),
        loss=config.loss,
        negatives=config.negatives,
        l2=config.l2,
        l2_row=config.l2_row,
        l2_dense=config.l2_dense,
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


def _new_model(spec: ModelSpec, source: str, options: TrainOptions, parameters: Parameters) -> NewModel:
    """A model to commit; the options are kept, so that references can be trained in the same way."""
    return NewModel(spec=spec, source=source, options=asdict(options), seed=options.seed, parameters=parameters)


def _quality(version: Version) -> dict[str, float | None]:
    """Figures of the committed model on the held-out pairs, where they have what a figure needs."""
    spec, data, test = version.model.spec, version.trained(), version.held_out("test")
    scorer = Scorer(spec, data, version.parameters())
    question = top_k_question(version, spec, data, test)
    ranking = question.figures(scorer.item_scores(question.items))
    aucs = {"valid_auc": scorer.auc(version.held_out("valid")), "test_auc": scorer.auc(test)}
    return aucs | {f"test_{name}": value for name, value in ranking.items()}


def _figures(fitted: Fitted, validation: Validation | None) -> dict[str, Any]:
    """What training cost and how it went; the validation's figure is that of the parameters that are kept."""
    stationary = {"converged": fitted.converged, "gradient_norm": fitted.gradient_norm, "remedy": fitted.remedy}
    return {
        **(stationary if fitted.converged is not None else {}),
        **({validation.name: fitted.valid} if validation and validation.name != "valid_auc" else {}),
        "stopped_by": fitted.stopped_by,
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
        f"first {CUTOFF} of all items: test recall {figure(report[f'test_recall_at_{CUTOFF}'])}, "
        f"NDCG {figure(report[f'test_ndcg_at_{CUTOFF}'])}",
    ]
    if report["source"] == "trained":
        lbfgs = "converged" in report
        run = "iterations" if lbfgs else f"epochs (best: {report['best_epoch']})"
        lines.append(
            f"{report['epochs_run']} {run} in {report['seconds']:.1f} s, "
            f"{report['interactions_per_second']:,.0f} interactions per second"
        )
        lines += [_stationarity(report)] if lbfgs else []
    if "unlearned" in report:
        lines += _unlearned_in_words(report["unlearned"], report["config"]["trained_on"])
    gone = report["left_out"]
    if gone["interactions"] or gone["users_and_items"]:
        lines.append(
            f"left out because erased: {gone['interactions']} interactions, {gone['users_and_items']} users and items"
        )
    return "\n".join(lines)


def _unlearned_in_words(unlearned: dict[str, Any], number: int) -> list[str]:
    """What was unlearned of a model from elsewhere."""
    line = (
        f"trained on version {number}; unlearned: {unlearned['interactions_erased']} interactions that were erased "
        f"since, {unlearned['rows_updated']} rows updated"
    )
    return [line, *solver_in_words(unlearned), unlearned["words"]]


def _stationarity(report: dict[str, Any]) -> str:
    """How near to a stationary point lbfgs came."""
    norm, tolerance = report["gradient_norm"], report["config"]["gradient_tolerance"]
    if report["converged"]:
        return f"stationary: gradient norm {norm:.2g}, within the tolerance {tolerance:g}"
    return f"not stationary: gradient norm {norm:.2g} is above the tolerance {tolerance:g}: {report['remedy']}"
