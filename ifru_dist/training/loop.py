"""The one entry to training, for every model: mini-batch Adam with early stopping, or L-BFGS to a stationary point.

Shapes: N rows over all tables, d dimensions.
"""

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.metrics import roc_auc_score

from ifru_dist.errors import InputError, TrainingError
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.initial import initial_embeddings
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.objective import TrainingObjective
from ifru_dist.training.progress import EpochProgress
from ifru_dist.training.stationary import descend
from ifru_dist.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a model is trained; what the model is, is said by its ``ModelSpec``."""

    optimiser: Literal["adam", "lbfgs"] = "adam"
    """adam: mini-batches with early stopping; lbfgs: full batches in float64 to a stationary point."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """At most this many passes over the training interactions; of lbfgs: iterations, it may need hundreds."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Stop adam after this many epochs without a better validation AUC."""
    batch_size: Annotated[int, Field(ge=1)] = 2048
    """Interactions per step of adam."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of adam."""
    gradient_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """2-norm of the gradient of the summed objective at which lbfgs stops."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the initialisation and of the order of the interactions."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The embeddings of the best epoch (of lbfgs: the last), and how training went."""

    embeddings: NDArray[np.float32]
    """(N, d), before propagation."""
    best_epoch: int
    """Counted from 1."""
    epochs_run: int
    """Of lbfgs: iterations."""
    valid_auc: float | None
    """Of the best epoch; None where lbfgs trained without validation pairs of both labels."""
    history: list[dict[str, Any]]
    """Per epoch: epoch, loss (mean over its batches, regulariser included), seconds (training only), and of adam
    valid_auc, of lbfgs gradient_norm."""
    seconds: float
    """In all, validation included."""
    interactions_per_second: float
    """Over the training steps alone."""
    converged: bool | None = None
    """Of lbfgs: whether the gradient's norm is within the tolerance."""
    gradient_norm: float | None = None
    """Of lbfgs: 2-norm of the gradient of the summed objective, before the embeddings are rounded to float32."""
    remedy: str = ""
    """What to do where lbfgs did not converge."""


def fit(
    spec: ModelSpec,
    n_rows: int,
    train: Interactions,
    valid: Interactions,
    options: TrainOptions,
    *,
    show_progress: bool,
) -> Fitted:
    """Train a model from scratch; adam keeps the epoch with the best validation AUC, lbfgs its last iterate.

    The result is the same, bit for bit, for the same arguments and number of torch threads.

    Args:
        spec: the model.
        n_rows: N, rows over all tables.
        train: interactions to learn from; their positives are the graph of a graph model.
        valid: interactions for adam's early stopping, with both labels.
        options: optimiser, epochs, batch size and the like.
        show_progress: a progress bar on a terminal, lines elsewhere.

    Raises:
        InputError: there is nothing to train on, or adam's validation has no AUC.
        TrainingError: the loss is no longer finite.
    """
    if len(train) == 0:
        raise InputError("the training set is empty: preprocess logs with more interactions or a smaller --k-core")
    started = time.perf_counter()
    embeddings = initial_embeddings(n_rows, spec.dim, spec.init_std, options.seed)
    embeddings = embeddings.double() if options.optimiser == "lbfgs" else embeddings
    objective = TrainingObjective(build_model(spec), embeddings, train.positives(), len(train))
    if options.optimiser == "lbfgs":
        return _fit_stationary(objective, train, valid, options, started, show_progress)
    return _fit_early_stopped(objective, train, valid, options, started, show_progress)


def _fit_stationary(
    objective: TrainingObjective,
    train: Interactions,
    valid: Interactions,
    options: TrainOptions,
    started: float,
    show_progress: bool,
) -> Fitted:
    """L-BFGS until the gradient's norm is within the tolerance."""
    with EpochProgress(options.epochs, show_progress, unit="iteration", line_every=50) as progress:
        descent = descend(
            objective,
            train,
            gradient_tolerance=options.gradient_tolerance,
            max_iterations=options.epochs,
            report=progress.report,
        )
    iterations = len(descent.history)
    return Fitted(
        # Workspaces hold float32. The rounding, relatively 6e-8 at most per number, moves the gradient by the curvature
        # times that: on MovieLens-100K by some 1e-5, but more where degrees and embeddings are larger.
        embeddings=objective.embeddings.numpy().astype(np.float32),
        best_epoch=iterations,
        epochs_run=iterations,
        valid_auc=_valid_auc(objective, valid, options, iterations) if np.unique(valid.labels).size == 2 else None,
        history=descent.history,
        seconds=time.perf_counter() - started,
        interactions_per_second=len(train) * descent.evaluations / descent.seconds,
        converged=descent.converged,
        gradient_norm=descent.gradient_norm,
        remedy=descent.remedy,
    )


def _fit_early_stopped(
    objective: TrainingObjective,
    train: Interactions,
    valid: Interactions,
    options: TrainOptions,
    started: float,
    show_progress: bool,
) -> Fitted:
    """Epochs of mini-batch Adam until the validation AUC no longer rises; the best epoch's embeddings."""
    _check_validation(valid)
    embeddings, trainer = objective.embeddings, Trainer(objective, options.learning_rate)
    shuffle = torch.Generator().manual_seed(options.seed)
    best: dict[str, Any] = {"epoch": 0, "valid_auc": -math.inf}
    best_embeddings = torch.empty_like(embeddings)
    history: list[dict[str, Any]] = []
    with EpochProgress(options.epochs, show_progress) as progress:
        for epoch in range(1, options.epochs + 1):
            entry = _run_epoch(trainer, train, options, shuffle, epoch)
            entry["valid_auc"] = _valid_auc(objective, valid, options, epoch)
            history.append(entry)
            progress.report(entry)
            if entry["valid_auc"] > best["valid_auc"]:
                best = entry
                best_embeddings.copy_(embeddings)
            elif epoch - best["epoch"] >= options.patience:
                break
    return Fitted(
        embeddings=best_embeddings.numpy(),
        best_epoch=best["epoch"],
        epochs_run=len(history),
        valid_auc=best["valid_auc"],
        history=history,
        seconds=time.perf_counter() - started,
        interactions_per_second=len(train) * len(history) / sum(entry["seconds"] for entry in history),
    )


def _run_epoch(
    trainer: Trainer, train: Interactions, options: TrainOptions, shuffle: torch.Generator, epoch: int
) -> dict[str, Any]:
    """One pass over the shuffled interactions, and its entry in the history."""
    started = time.perf_counter()
    order = torch.randperm(len(train), generator=shuffle).numpy()
    rows, labels = torch.from_numpy(train.rows[order]), torch.from_numpy(train.labels[order])
    total = 0.0
    for start in range(0, len(train), options.batch_size):
        batch = slice(start, start + options.batch_size)
        total += trainer.step(rows[batch], labels[batch]) * len(labels[batch])
    if not math.isfinite(total):
        raise _diverged("the training loss", epoch, options)
    return {"epoch": epoch, "loss": total / len(train), "seconds": time.perf_counter() - started}


def _valid_auc(objective: TrainingObjective, valid: Interactions, options: TrainOptions, epoch: int) -> float:
    """AUC of the current embeddings on the validation interactions."""
    scores = objective.scores(valid.rows)
    if not np.isfinite(scores).all():
        raise _diverged("a validation score", epoch, options)
    return float(roc_auc_score(valid.labels, scores))


def _diverged(figure: str, epoch: int, options: TrainOptions) -> TrainingError:
    """The error for a figure that is no longer finite."""
    return TrainingError(
        f"training diverged: {figure} is not finite in epoch {epoch}; "
        f"use a smaller --learning-rate than {options.learning_rate:g}, or a smaller --init-std or --l2"
    )


def _check_validation(valid: Interactions) -> None:
    """Raise an InputError where training cannot be stopped early."""
    if len(valid) == 0:
        raise InputError(
            "the validation set is empty, early stopping needs one: raise the second share of --split, or train with "
            "--optimiser lbfgs"
        )
    if np.ptp(valid.labels) == 0:
        raise InputError(
            f"all {len(valid)} validation interactions have the label {valid.labels[0]:g}, so they have no AUC: "
            "change --positive-threshold, or give validation data with both labels"
        )
