"""What unlearning is compared with: training anew, and one epoch from the current model, without what was erased."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ifru_dist.errors import TrainingError
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.references import train_reference
from ifru_dist.training.loop import Fitted, TrainOptions, fit
from ifru_dist.workspace.version import Version

_WARM_UP = 1000
"""Interactions."""


def retraining_report(version: Version, kept: Interactions) -> dict[str, Any]:
    """Train a version's model anew on what is kept, with the options that it was trained with.

    Returns:
        Seconds from the start until early stopping returns, and how it went; with ``failure`` where it diverged.
    """
    _warm_up(version, kept)
    say(f"retraining on {len(kept)} interactions")
    return _trained(lambda: train_reference(version, kept, version.model.options["seed"]), kept)


def fine_tuning_report(version: Version, kept: Interactions) -> dict[str, Any]:
    """Train a version's model one epoch further on what is kept; of lbfgs one iteration.

    Returns:
        As for retraining. Nothing is validated, as there is nothing to stop.
    """
    _warm_up(version, kept)
    say(f"fine-tuning on {len(kept)} interactions")
    return _trained(lambda: _one_epoch(version, kept), kept)


def _one_epoch(version: Version, kept: Interactions) -> Fitted:
    """A version's model trained one epoch further."""
    return fit(
        version.model.spec,
        version.layout.sizes,
        kept,
        None,
        replace(TrainOptions(**version.model.options), epochs=1),
        forgotten=version.forgotten_rows(),
        initial=version.parameters(),
        show_progress=False,
    )


def _warm_up(version: Version, kept: Interactions) -> None:
    """Train on a few interactions, so that what the first training of a process loads is in no figure."""
    positives_first = np.argsort(-kept.labels, kind="stable")
    with suppress(TrainingError):  # the training that is measured will say it, if it diverges, too
        _one_epoch(version, kept.take(positives_first[:_WARM_UP]))


def _trained(train: Callable[[], Fitted], kept: Interactions) -> dict[str, Any]:
    """The figures of a training; one that fails must not take with it what was measured before."""
    common = {"interactions": len(kept), "threads": torch.get_num_threads()}
    try:
        fitted = train()
    except TrainingError as error:
        say(f"no figure of it: {error}")
        return common | {"seconds": None, "failure": str(error)}
    return common | {
        "seconds": fitted.seconds,
        "epochs": fitted.epochs_run,
        "stopped_by": fitted.stopped_by,
        "failure": None,
    }
