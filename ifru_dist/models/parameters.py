"""The trained parameters of a model as arrays: what training makes, the workspace keeps and scoring reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Parameters:
    """Embedding rows and the model's own parameters."""

    embeddings: NDArray[np.float32]
    """(N, width) in global row order."""
    dense: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """By name; empty for a model that has embedding rows only."""

    def dense_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The model's own parameters as tensors."""
        return {name: torch.from_numpy(values).to(dtype) for name, values in self.dense.items()}
