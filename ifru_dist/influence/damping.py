"""Lambda: how far a row may move, given how little data holds it (anchored at the model before the batch).

- ``degree``: c * sqrt(deg v).
- ``gradient``: c * sqrt(S_v), with S_v the sum of the squared gradients of the row's examples before the batch, as a
  mean over its columns. Adam, whose steps are the gradient over its root mean square, gives a row in a given number of
  steps about as much way as a spring of this strength (docs/method.md), so its options say what c is.
"""

import math

from torch import Tensor

DEFAULT_DAMPING = 0.4
"""c without calibration: the best of a sweep on an early-stopped factorisation of BookCrossing."""


def row_damping(damping: float, degrees: Tensor) -> Tensor:
    """The ``degree`` form for rows with ``degrees`` (n,) examples before the erasure, (n,) float64."""
    return damping * degrees.double().sqrt()


def gradient_damping(damping: float, squares: Tensor) -> Tensor:
    """The ``gradient`` form for rows with ``squares`` S_v (n,), (n,) float64."""
    return damping * squares.clamp(min=_NO_GRADIENT).sqrt()


def adam_scale(learning_rate: float, epochs: int, batches: float) -> float:
    """The c of the ``gradient`` form for a model that Adam has trained: 1 / (learning rate * epochs * sqrt(batches)).

    The summed gradients of a batch have the mean square S_v / batches, by whose root Adam divides each step. A constant
    force f, spread over the batches of an epoch, is f / batches in each, so a row goes learning rate * f / sqrt(batches
    * S_v) in a step, and f / Lambda_v in epochs * batches of them.

    Args:
        learning_rate: of Adam.
        epochs: to the embeddings that were kept.
        batches: of an epoch.
    """
    return 1.0 / (learning_rate * epochs * math.sqrt(batches))


_NO_GRADIENT = 1e-12
"""S of a row whose examples have none: it is held, if ever so little."""
