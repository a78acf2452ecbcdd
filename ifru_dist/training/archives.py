"""Zip archives from elsewhere (.npz, .pt): seen to be whole, and what they claim to hold, before memory is given to it.

A header of a few bytes can claim any shape, and a few kilobytes can expand to any size. What is claimed is compared
with what is there; a check by the archive's own checksums follows, since readers stop at the end of the claimed shape.
"""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

FREE_BYTES = 64 << 20
"""What a member may expand to, however small it is in the archive."""
MOST_EXPANSION = 100
"""Times its size that a larger member may expand to: embeddings shrink by a few per cent, ids to a tenth."""
_CHUNK_BYTES = 1 << 20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array of a .npz file.

    Raises:
        ValueError: it holds pickled objects, or its header claims another size than it has.
        zipfile.BadZipFile: its checksum does not match.
    """
    check_expansion(path, info)
    with archive.open(info) as file:
        header_bytes, size_bytes = _claimed(file)
    if header_bytes + size_bytes != info.file_size:
        raise ValueError(f"'{info.filename}' claims {size_bytes} bytes, {info.file_size - header_bytes} are there")
    with archive.open(info) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # at its end the archive compares the checksum
    return array


def check_stored(path: Path) -> None:
    """See that the members of a zip archive are whole, and lie in it as they are.

    Raises:
        ValueError: one is compressed.
        zipfile.BadZipFile: the archive is cut off, or a checksum does not match.
    """
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"'{info.filename}' is compressed")
            check_expansion(path, info)
            with archive.open(info) as file:
                while file.read(_CHUNK_BYTES):
                    pass


def check_expansion(path: Path, info: zipfile.ZipInfo) -> None:
    """Raise ValueError when a member would expand to far more than it takes in the archive."""
    packed_bytes = min(info.compress_size, path.stat().st_size)
    if info.file_size > max(FREE_BYTES, MOST_EXPANSION * packed_bytes):
        raise ValueError(
            f"'{info.filename}' would expand from {packed_bytes} to {info.file_size} bytes, save it uncompressed"
        )


def _claimed(file: IO[bytes]) -> tuple[int, int]:
    """Bytes of a .npy file's header, and those of the array that it claims."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array of the format {version}")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("pickled objects, which are never loaded; numpy must read it with allow_pickle=False")
    return file.tell(), math.prod(shape) * dtype.itemsize
