"""The one entry to training, for every model: mini-batch Adam with early stopping, or L-BFGS to a stationary point.

Shapes: N rows over all tables, w columns of a row.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ifru_dist.errors import TrainingError
from ifru_dist.interactions import Interactions
from ifru_dist.models.base import dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.initial import initial_embeddings
from ifru_dist.models.parameters import Parameters
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.examples import TrainingExamples
from ifru_dist.training.objective import TrainingObjective
from ifru_dist.training.progress import EpochProgress
from ifru_dist.training.stationary import descend
from ifru_dist.training.trainer import Trainer
from ifru_dist.training.validation import Validation


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a model is trained; what the model is, is said by its ``ModelSpec``."""

    optimiser: Literal["adam", "lbfgs"] = "adam"
    """adam: mini-batches with early stopping; lbfgs: full batches in float64 to a stationary point."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """At most this many passes over the training interactions; of lbfgs: iterations, it may need hundreds."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Stop adam after this many epochs without a better validation figure."""
    batch_size: Annotated[int, Field(ge=1)] = 2048
    """Examples per step of adam."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of adam."""
    gradient_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """2-norm of the gradient of the summed objective at which lbfgs stops."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the initialisation, of the order of the examples and of the negatives that are drawn."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The parameters of the best epoch (of lbfgs, and without validation: the last), and how training went."""

    parameters: Parameters
    """Embeddings (N, w) before propagation, and the model's own parameters."""
    best_epoch: int
    """Counted from 1."""
    epoch_examples: int
    """Examples of an epoch: with bpr the positives only."""
    epochs_run: int
    """Of lbfgs: iterations."""
    stopped_by: str
    """Of adam: the validation's name, or ``epochs``; of lbfgs: ``gradient``, ``epochs`` or ``precision``."""
    valid: float | None
    """The validation's figure of these parameters; None without validation."""
    history: list[dict[str, Any]]
    """Per epoch: epoch, loss (mean over its batches, regulariser included), seconds (training only), and of adam
    the validation's figure under its name, of lbfgs gradient_norm."""
    seconds: float
    """In all, validation included."""
    interactions_per_second: float
    """Over the training steps alone."""
    converged: bool | None = None
    """Of lbfgs: whether the gradient's norm is within the tolerance."""
    gradient_norm: float | None = None
    """Of lbfgs: 2-norm of the gradient of the summed objective, before the parameters are rounded to float32."""
    remedy: str = ""
    """What to do where lbfgs did not converge."""


def fit(
    spec: ModelSpec,
    sizes: Sequence[int],
    train: Interactions,
    validation: Validation | None,
    options: TrainOptions,
    *,
    forgotten: NDArray[np.int64] | None = None,
    initial: Parameters | None = None,
    show_progress: bool,
) -> Fitted:
    """Train a model; adam keeps the epoch with the best validation figure, lbfgs its last iterate.

    The result is the same, bit for bit, for the same arguments and number of torch threads.

    Args:
        spec: the model.
        sizes: rows of each table; N together.
        train: interactions to learn from; their positives are the graph of a graph model.
        validation: for adam's early stopping; without it all epochs are run, and the last is kept.
        options: optimiser, epochs, batch size and the like.
        forgotten: rows of items that are drawn as nobody's negatives.
        initial: where training begins, embeddings (N, w); None: at the seed's initialisation. It is not moved.
        show_progress: a progress bar on a terminal, lines elsewhere.

    Raises:
        InputError: there is nothing to train on.
        TrainingError: the loss or a validation score is no longer finite.
    """
    started, model = time.perf_counter(), build_model(spec)
    examples = TrainingExamples(model, train, sizes, options.seed, forgotten)
    dtype = torch.float64 if options.optimiser == "lbfgs" else torch.float32
    if initial is None:
        embeddings = initial_embeddings(sum(sizes), model.width, spec.init_std, options.seed).to(dtype)
        dense = {name: values.to(dtype) for name, values in dense_parameters(model, options.seed).items()}
    else:  # copies: they are moved in place
        embeddings = torch.tensor(initial.embeddings, dtype=dtype)
        dense = {name: torch.tensor(values, dtype=dtype) for name, values in initial.dense.items()}
    objective = TrainingObjective(model, embeddings, dense, train.positives(), len(examples))
    if options.optimiser == "lbfgs":
        return _fit_stationary(objective, examples, validation, options, started, show_progress)
    return _fit_early_stopped(objective, examples, validation, options, started, show_progress)


def _fit_stationary(
    objective: TrainingObjective,
    examples: TrainingExamples,
    validation: Validation | None,
    options: TrainOptions,
    started: float,
    show_progress: bool,
) -> Fitted:
    """L-BFGS until the gradient's norm is within the tolerance."""
    with EpochProgress(options.epochs, show_progress, unit="iteration", line_every=50) as progress:
        descent = descend(
            objective,
            examples,
            gradient_tolerance=options.gradient_tolerance,
            max_iterations=options.epochs,
            report=progress.report,
        )
    iterations = len(descent.history)
    return Fitted(
        # Workspaces hold float32. The rounding, relatively 6e-8 at most per number, moves the gradient by the curvature
        # times that: on MovieLens-100K by some 1e-5, but more where degrees and embeddings are larger.
        parameters=_kept(objective, objective.parameters),
        epoch_examples=len(examples),
        best_epoch=iterations,
        epochs_run=iterations,
        stopped_by=descent.stopped_by,
        valid=_valid(objective, validation, options, iterations) if validation else None,
        history=descent.history,
        seconds=time.perf_counter() - started,
        interactions_per_second=len(examples) * descent.evaluations / descent.seconds,
        converged=descent.converged,
        gradient_norm=descent.gradient_norm,
        remedy=descent.remedy,
    )


def _fit_early_stopped(
    objective: TrainingObjective,
    examples: TrainingExamples,
    validation: Validation | None,
    options: TrainOptions,
    started: float,
    show_progress: bool,
) -> Fitted:
    """Epochs of mini-batch Adam until the validation figure no longer rises; the best epoch's parameters."""
    trainer = Trainer(objective, options.learning_rate)
    shuffle = torch.Generator().manual_seed(options.seed)
    best_epoch, best, stopped_by = 0, -math.inf, "epochs"
    kept = [torch.empty_like(values) for values in objective.parameters] if validation else objective.parameters
    history: list[dict[str, Any]] = []
    with EpochProgress(options.epochs, show_progress) as progress:
        for epoch in range(1, options.epochs + 1):
            entry = _run_epoch(trainer, examples, options, shuffle, epoch)
            history.append(entry)
            if validation:
                entry[validation.name] = _valid(objective, validation, options, epoch)
            progress.report(entry)
            if validation is None:
                best_epoch = epoch
            elif entry[validation.name] > best:
                best_epoch, best = epoch, entry[validation.name]
                for copy, values in zip(kept, objective.parameters, strict=True):
                    copy.copy_(values)
            elif epoch - best_epoch >= options.patience:
                stopped_by = validation.name
                break
    return Fitted(
        parameters=_kept(objective, kept),
        epoch_examples=len(examples),
        best_epoch=best_epoch,
        epochs_run=len(history),
        stopped_by=stopped_by,
        valid=best if validation else None,
        history=history,
        seconds=time.perf_counter() - started,
        interactions_per_second=len(examples) * len(history) / sum(entry["seconds"] for entry in history),
    )


def _run_epoch(
    trainer: Trainer, examples: TrainingExamples, options: TrainOptions, shuffle: torch.Generator, epoch: int
) -> dict[str, Any]:
    """One pass over the shuffled examples, and its entry in the history."""
    started, drawn = time.perf_counter(), examples.of_epoch(epoch)
    order = torch.randperm(len(drawn), generator=shuffle).numpy()
    rows, labels = torch.from_numpy(drawn.rows[order]), torch.from_numpy(drawn.labels[order])
    total = 0.0
    for start in range(0, len(drawn), options.batch_size):
        batch = slice(start, start + options.batch_size)
        total += trainer.step(rows[batch], labels[batch]) * len(labels[batch])
    if not math.isfinite(total):
        raise _diverged("the training loss", epoch, options)
    return {"epoch": epoch, "loss": total / len(drawn), "seconds": time.perf_counter() - started}


def _valid(objective: TrainingObjective, validation: Validation, options: TrainOptions, epoch: int) -> float:
    """The validation's figure of the current parameters."""
    figure = validation.figure(objective.predictor())
    if not math.isfinite(figure):
        raise _diverged("a validation score", epoch, options)
    return figure


def _kept(objective: TrainingObjective, values: Sequence[Tensor]) -> Parameters:
    """Parameters in the order of the objective's as they are stored: float32."""
    embeddings, *dense = (tensor.numpy().astype(np.float32, copy=False) for tensor in values)
    return Parameters(embeddings, dict(zip(objective.dense, dense, strict=True)))


def _diverged(figure: str, epoch: int, options: TrainOptions) -> TrainingError:
    """The error for a figure that is no longer finite."""
    return TrainingError(
        f"training diverged: {figure} is not finite in epoch {epoch}; "
        f"use a smaller --learning-rate than {options.learning_rate:g}, or a smaller --init-std or --l2"
    )
