"""Spilling to disk: columns of rows that are sorted into buckets, in files of their own, and reading a bucket of many.

Each task writes one file, all rows of a bucket side by side; a bucket is then read from all the files, in their order,
as a shuffle does. So rows of a bucket stay in the order of the logs, whoever wrote the files.
"""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifru_dist.errors import InputError
from ifru_dist.workspace.ordering import stable_order

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """A file of columns, one after the other, each sorted by bucket."""

    path: Path
    dtypes: dict[str, np.dtype[Any]]
    """Of the columns, in their order in the file."""
    bounds: NDArray[np.int64]
    """(buckets + 1,): where the rows of each bucket begin and end."""

    @property
    def n_rows(self) -> int:
        """Rows of all buckets."""
        return int(self.bounds[-1])

    def rows_of(self, buckets: range) -> slice:
        """The rows of consecutive buckets."""
        return slice(int(self.bounds[buckets.start]), int(self.bounds[buckets.stop]))


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder for spilled rows; what an earlier attempt left in it goes first, and all of it at the end.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        if not str(error.filename).startswith(str(folder)) and error.errno not in _NO_ROOM:
            raise
        raise InputError(
            f"{folder} cannot take the rows that are sorted on disk ({error.strerror or error}): make room, about 100 "
            "bytes for each row of the logs, or name another folder by --scratch; a cluster's machines must all see it"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def grouped_run(path: Path, columns: Columns, bucket: NDArray[np.integer], n_buckets: int) -> Run:
    """Write columns (n,), sorted by the bucket (n,) of each row."""
    order, bounds = stable_order(bucket, n_buckets)
    return write_run(path, {name: column[order] for name, column in columns.items()}, bounds)


def write_run(path: Path, columns: Columns, bounds: NDArray[np.int64] | None = None) -> Run:
    """Write columns (n,) that are sorted by bucket already; without bounds all rows are of one."""
    n_rows = len(next(iter(columns.values())))
    try:
        with path.open("wb") as file:
            for column in columns.values():
                np.ascontiguousarray(column).tofile(file)
    except OSError as error:
        error.filename = str(path)  # numpy names none
        raise
    dtypes = {name: column.dtype for name, column in columns.items()}
    return Run(path, dtypes, np.array([0, n_rows]) if bounds is None else bounds)


def read_rows(run: Run, rows: slice, names: Sequence[str] | None = None) -> Columns:
    """Some consecutive rows of a file, by default of all its columns."""
    return _read([run], [rows], names)


def read_bucket(runs: Sequence[Run], buckets: range, names: Sequence[str] | None = None) -> Columns:
    """The rows of consecutive buckets from all files, in the order of the files; by default of all columns."""
    return _read(runs, [run.rows_of(buckets) for run in runs], names)


def mapped(path: Path) -> NDArray[Any]:
    """An array of a ``.npy`` file, to be read where it lies."""
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def remove(runs: Sequence[Run | Path]) -> None:
    """Delete files that are not needed any more."""
    for run in runs:
        with suppress(FileNotFoundError):
            (run if isinstance(run, Path) else run.path).unlink()


def _read(runs: Sequence[Run], parts: Sequence[slice], names: Sequence[str] | None) -> Columns:
    """Some rows of each file, one after the other."""
    dtypes = runs[0].dtypes
    ends = np.cumsum([0, *(part.stop - part.start for part in parts)])
    columns = {name: np.empty(ends[-1], dtypes[name]) for name in (dtypes if names is None else names)}
    for run, part, start, stop in zip(runs, parts, ends[:-1], ends[1:], strict=True):
        if stop > start:
            _fill(run, part, {name: column[start:stop] for name, column in columns.items()})
    return columns


def _fill(run: Run, part: slice, columns: Columns) -> None:
    """Read some rows of a file into arrays."""
    with run.path.open("rb", buffering=0) as file:
        column_start = 0
        for name, dtype in run.dtypes.items():
            if name in columns:
                file.seek(column_start + part.start * dtype.itemsize)
                file.readinto(columns[name].view(np.uint8).data)
            column_start += run.n_rows * dtype.itemsize
