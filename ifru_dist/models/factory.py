"""From what the workspace records of a model to the model itself."""

from ifru_dist.models.base import Model
from ifru_dist.models.lightgcn import LightGCN
from ifru_dist.models.losses import BinaryCrossEntropy, Loss
from ifru_dist.models.matrix_factorisation import MatrixFactorisation
from ifru_dist.models.spec import ModelSpec

_LOSSES: dict[str, Loss] = {"bce": BinaryCrossEntropy()}


def build_model(spec: ModelSpec) -> Model:
    """The model that a spec describes; a validated spec names only models and losses that exist."""
    loss = _LOSSES[spec.loss]
    if spec.name == "lightgcn":
        return LightGCN(loss=loss, l2=spec.l2, l2_row=spec.l2_row, layers=spec.layers)
    return MatrixFactorisation(loss=loss, l2=spec.l2, l2_row=spec.l2_row)
