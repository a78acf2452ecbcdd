"""Files of named arrays: read without ever executing a pickle, and written whole or not at all.

- .npz: numpy arrays; text is unicode.
- .safetensors: tensors; text stands as JSON in the metadata, under its name.
- .pt, .pth, .pt.tar, .pth.tar: a dictionary of tensors and plain lists as ``torch.save`` writes it, or such a
  dictionary under ``state_dict`` in another one.
"""

import json
import os
import secrets
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ifru_dist.errors import ConfigError, IfruError, InputError, reason_of
from ifru_dist.training.archives import check_stored, read_member

READABLE = (".npz", ".safetensors", ".pt", ".pth", ".pt.tar", ".pth.tar")
WRITABLE = (".npz", ".safetensors", ".pt")
_SAFETENSORS_HEADER_BYTES = 99_000_000
"""Readers of .safetensors refuse a header beyond 100 MB, and text stands in the header."""
_ZIP_BEGINS = b"PK\x03\x04"

Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """Read those arrays of a file whose names are wanted; text becomes unicode, bfloat16 and the like float32.

    Raises:
        InputError: the file's kind is unknown, it cannot be read, or it holds pickled objects.
    """
    suffix = next((suffix for suffix in reversed(READABLE) if path.name.endswith(suffix)), "")
    if not suffix:
        known = ", ".join(READABLE[:-1])
        raise InputError(f"{path}: embeddings cannot be read from '{path.suffix}': save them as {known}")
    read = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(suffix, _read_torch)
    try:
        return read(path, wanted)
    except IfruError:
        raise
    except Exception as error:  # torn bytes fail anywhere in the parsers, with any type of exception
        raise InputError(
            f"{path}: the embeddings cannot be read ({type(error).__name__}: {reason_of(error)}): check the path, or "
            "export again"
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], manifest: str) -> int:
    """Write arrays of numbers and text, and a text named ``manifest``; returns the size in bytes.

    The file is written aside, synced and renamed, so that a reader sees it whole or not at all.

    Args:
        path: ends in one of ``WRITABLE``; a file that is there is replaced.
        arrays: names -> numbers of any shape, or text (n,) as numpy unicode.
        manifest: text about the file.

    Raises:
        ConfigError: the format cannot hold so much text, or its library could not write.
        OSError: the file system could not.
    """
    write = {".npz": _write_npz, ".safetensors": _write_safetensors, ".pt": _write_torch}[path.suffix]
    contiguous = {name: np.require(array, requirements=["C", "W"]) for name, array in arrays.items()}
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write(aside, contiguous, manifest)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        size_bytes = aside.stat().st_size
        aside.replace(path)
    except (SafetensorError, RuntimeError) as error:  # what their writers make of a full disk
        reason = " ".join(str(error).split())
        raise ConfigError(f"--to = {path}: could not be written ({reason}): look for room on its disk") from error
    finally:
        aside.unlink(missing_ok=True)
    return size_bytes


def _read_npz(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """Arrays of a .npz file; pickled objects are refused."""
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): info for name, info in archive.NameToInfo.items()}
        return {name: read_member(path, archive, info) for name, info in members.items() if wanted(name)}


def _read_safetensors(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """Arrays of a .safetensors file: tensors, and JSON in its metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        arrays = {name: np.asarray(json.loads(text)) for name, text in metadata.items() if wanted(name)}
        names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118 (the file is no dictionary)
        return arrays | {name: _as_array(path, name, file.get_tensor(name)) for name in names}


def _read_torch(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """Tensors and lists of a file of torch's; the unpickler makes tensors and plain containers, nothing else."""
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_BEGINS)) == _ZIP_BEGINS
    if is_zip:
        check_stored(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error that follows says what matters
            # Mapped, a tensor that claims more bytes than its storage has is refused; else it would reach beyond it.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError:
        raise
    except Exception as error:  # torn bytes fail anywhere in the unpickler, with any type of exception
        # Not the message of torch: it recommends to load the file without these precautions.
        raise InputError(
            f"{path}: is damaged, or holds pickled Python objects, which are never loaded ({type(error).__name__}): "
            "export tensors alone where the model was trained, as docs/formats.md shows"
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}: save a dictionary of named tensors")
    inner = content.get("state_dict")
    named = {**content, **(inner if isinstance(inner, Mapping) else {})}
    names = [name for name in named if isinstance(name, str) and wanted(name)]
    return {name: _as_array(path, name, named[name]) for name in names}


def _as_array(path: Path, name: str, value: Any) -> NDArray[Any]:
    """A tensor, or a list of numbers or text, as an array."""
    if isinstance(value, (list, tuple)):
        return np.asarray(value)
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path}: '{name}' is a {type(value).__name__}: save it as a tensor or a list")
    halves = value.is_floating_point() and value.dtype not in (torch.float32, torch.float64)
    try:
        return (value.detach().float() if halves else value.detach()).numpy()
    except (TypeError, RuntimeError):  # sparse, quantised, or on no device
        seen = f"{value.layout}, {value.dtype}, on {value.device}"
        raise InputError(f"{path}: tensor '{name}' is {seen}: save it dense, as floats or integers") from None


def _write_npz(path: Path, arrays: Arrays, manifest: str) -> None:
    """Arrays and the manifest, a unicode scalar."""
    with path.open("xb") as file:  # a path without the suffix would get one
        np.savez(file, manifest=np.asarray(manifest), **arrays)  # type: ignore[arg-type]


def _write_safetensors(path: Path, arrays: Arrays, manifest: str) -> None:
    """Numbers as tensors; text and the manifest in the metadata."""
    lists = {name: json.dumps(array.tolist(), ensure_ascii=False) for name, array in arrays.items() if _is_text(array)}
    size_bytes = sum(len(json.dumps(text, ensure_ascii=False).encode()) for text in lists.values())
    if size_bytes > _SAFETENSORS_HEADER_BYTES:
        raise ConfigError(
            f"--to = {path}: {' and '.join(lists)} take {size_bytes} bytes, and .safetensors has room for "
            f"{_SAFETENSORS_HEADER_BYTES} bytes of text: write .npz or .pt"
        )
    tensors = {name: array for name, array in arrays.items() if not _is_text(array)}
    path.touch(exist_ok=False)
    mode = path.stat().st_mode  # the library's own files are closed to everybody else
    safetensors.numpy.save_file(tensors, path, metadata={"manifest": manifest, **lists})
    path.chmod(mode)


def _write_torch(path: Path, arrays: Arrays, manifest: str) -> None:
    """Numbers as tensors, text as lists, the manifest as text."""
    values = {name: array.tolist() if _is_text(array) else torch.from_numpy(array) for name, array in arrays.items()}
    with path.open("xb") as file:
        torch.save({"manifest": manifest, **values}, file)


def _is_text(array: NDArray[Any]) -> bool:
    """Whether an array holds unicode."""
    return array.dtype.kind == "U"
