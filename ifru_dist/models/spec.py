"""What a trained model is, as the workspace records it: enough to score, retrain and unlearn."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Architecture, loss and regulariser of an embedding model."""

    name: Literal["mf", "lightgcn"] = "mf"
    """mf: matrix factorisation; lightgcn: LightGCN on the graph of the training positives."""
    dim: Annotated[int, Field(ge=1)] = 48
    """Embedding dimension d."""
    layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Propagation layers of LightGCN; ignored by mf."""
    loss: Literal["bce"] = "bce"
    """Loss of one example."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Per example, (l2 / 2) * squared norms of its embedding rows is added to the loss."""
    l2_row: Annotated[float, Field(ge=0)] = 0.0
    """Per embedding row, once whatever its examples, (l2_row / 2) * its squared norm is added to the summed loss."""
    init_std: Annotated[float, Field(gt=0)] = 1e-3
    """Standard deviation of the normal initialisation of an embedding row."""
