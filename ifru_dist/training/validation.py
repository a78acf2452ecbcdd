"""What training is stopped by: a figure of the model as it is, the higher the better."""

from collections.abc import Callable
from dataclasses import dataclass

from ifru_dist.models.predict import Predictor


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A figure on interactions that are not trained on."""

    name: str
    """By which the history holds it, such as ``valid_auc``."""
    figure: Callable[[Predictor], float]
    """NaN where a score is not finite."""
