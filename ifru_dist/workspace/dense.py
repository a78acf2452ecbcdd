"""A model's own parameters on disk: all that is no embedding row, in one file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ifru_dist.workspace.files import FileEntry, Staging, open_arrow, write_batches

DENSE = pa.schema([("name", pa.string()), ("shape", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))])


def write_dense(root: Path | Staging, dense: Mapping[str, NDArray[np.float32]]) -> FileEntry | None:
    """Write parameters by name, each of any shape; no file where there are none."""
    if not dense:
        return None
    columns = [
        list(dense),
        [list(values.shape) for values in dense.values()],
        [values.astype(np.float32, copy=False).reshape(-1) for values in dense.values()],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, DENSE, strict=True)]
    return write_batches(root, "tables/dense", DENSE, [pa.RecordBatch.from_arrays(arrays, schema=DENSE)])


def read_dense(root: Path, entry: FileEntry | None) -> dict[str, NDArray[np.float32]]:
    """The parameters that ``write_dense`` wrote, in their order."""
    if entry is None:
        return {}
    names, shapes, values = (column.combine_chunks() for column in open_arrow(root, entry).read_all().columns)
    return {
        name: np.array(numbers.values.to_numpy(), np.float32).reshape(shape)
        for name, shape, numbers in zip(names.to_pylist(), shapes.to_pylist(), values, strict=True)
    }
