"""What a trained model is, as the workspace records it: enough to score, retrain and unlearn."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

SHIPPED = ("mf", "biased-mf", "lightgcn", "neumf", "fm")
"""Names of the models that come with the package."""

LossName = Literal["bce", "squared", "bpr"]
"""Binary cross-entropy, half the squared error, or Bayesian personalised ranking against negatives that are drawn."""
KNOWN_FIELDS_ONLY = ConfigDict(extra="forbid")
"""For what is read from a manifest: a field that this release does not know may change what the others mean."""
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Columns of a row or of a layer."""
Draws = Annotated[int, Field(ge=1, le=65_536)]
"""Negatives of a positive."""


def _model_name(name: str) -> str:
    """The name, if it is a shipped model's or names a class."""
    if name not in SHIPPED and not re.fullmatch(r"[\w.]+:\w+", name):
        raise ValueError(f"name one of {', '.join(SHIPPED)}, or a class of your own as package.module:Class")
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Architecture, loss and regulariser of an embedding model."""

    __pydantic_config__ = KNOWN_FIELDS_ONLY
    name: ModelName = "mf"
    """mf, biased-mf, lightgcn, neumf, fm, or a class of one's own as package.module:Class."""
    dim: Width = 48
    """Embedding dimension; a model may keep further columns, such as a bias."""
    layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Propagation layers of LightGCN; ignored by others."""
    hidden: tuple[Width, ...] = (32, 16)
    """Widths of NeuMF's hidden layers; ignored by others."""
    fields: Annotated[int, Field(ge=2)] = 2
    """Tables that an example has a row of: user, item and further fields."""
    loss: LossName = "bce"
    """Loss of one example."""
    negatives: Draws = 4
    """With bpr: negatives drawn for each positive in the objective that unlearning minimises; training draws one anew
    in each epoch."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Per example, (l2 / 2) * squared norms of its embedding rows is added to the loss."""
    l2_row: Annotated[float, Field(ge=0)] = 0.0
    """Per embedding row, once whatever its examples, (l2_row / 2) * its squared norm is added to the summed loss."""
    l2_dense: Annotated[float, Field(ge=0)] = 0.0
    """Once, (l2_dense / 2) * squared norm of the parameters beside the embedding rows is added to the summed loss."""
    init_std: Annotated[float, Field(gt=0)] = 1e-3
    """Standard deviation of the normal initialisation of an embedding row."""

    def __post_init__(self) -> None:
        """Take the hidden widths from a JSON list, too."""
        object.__setattr__(self, "hidden", tuple(self.hidden))
