"""The two initialisations of embedding rows: of a whole table before training, and of rows never seen in training."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def initial_embeddings(n_rows: int, dim: int, std: float, seed: int) -> Tensor:
    """Embeddings (n_rows, dim) float32 to start training from: normal with mean 0 and the given deviation."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, dim, generator=generator).mul_(std)


def unseen_rows(table: str, ids: Sequence[str], dim: int, std: float, seed: int) -> NDArray[np.float32]:
    """What rows without any training data hold, (n, dim): normal with mean 0 and the given deviation.

    A row depends on the seed, its table and its id alone, so every worker computes the same one, whatever other
    rows it computes. The random stream is counter-based (Philox) and keyed by a digest of the three.
    """
    rows = np.empty((len(ids), dim), dtype=np.float32)
    for row, external_id in zip(rows, ids, strict=True):
        digest = hashlib.sha256(json.dumps([seed, table, external_id]).encode()).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        row[:] = std * generator.standard_normal(dim)
    return rows
