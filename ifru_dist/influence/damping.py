"""Lambda: how far a row may move, given how little data holds it (anchored at the model before the batch)."""

from torch import Tensor

DEFAULT_DAMPING = 0.4
"""c without calibration: the best of a sweep on an early-stopped factorisation of BookCrossing."""


def row_damping(damping: float, degrees: Tensor) -> Tensor:
    """Lambda_v = c * sqrt(deg v) of rows with ``degrees`` (n,) examples before the erasure, (n,) float64."""
    return damping * degrees.double().sqrt()
