"""The initialisations of embedding rows: of a table before training, of rows never seen in training, of reset rows."""

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
    """What rows of known ids that no training has seen hold, (n, dim): normal with mean 0 and the given deviation.

    A row depends on the seed, its table and its id alone, so every worker computes the same one, whatever other
    rows it computes. The random stream is counter-based (Philox) and keyed by a digest of the three.
    """
    return _drawn(table, ids, dim, std, seed)


def reset_rows(table: str, numbers: Sequence[int], dim: int, std: float, seed: int) -> NDArray[np.float32]:
    """What rows that lost all their training data hold, (n, dim): drawn as ``unseen_rows``, by numbers in the table.

    Not by their ids: who has the rows of those that were erased could try ids until one gives such a row.
    """
    return _drawn(table, [int(number) for number in numbers], dim, std, seed)


def _drawn(table: str, names: Sequence[str | int], dim: int, std: float, seed: int) -> NDArray[np.float32]:
    """Random rows (n, dim), each by its name alone; a number is another name than its digits are."""
    rows = np.empty((len(names), dim), dtype=np.float32)
    for row, name in zip(rows, names, strict=True):
        digest = hashlib.sha256(json.dumps([seed, table, name]).encode()).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        row[:] = std * generator.standard_normal(dim)
    return rows
