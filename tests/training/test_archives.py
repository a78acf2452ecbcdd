"""Archives that claim what they do not hold are refused before memory is given to it, and taken for nothing else."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ifru_dist.errors import InputError
from ifru_dist.training import archives
from ifru_dist.training.tensor_files import read_arrays

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)


def everything(name: str) -> bool:
    return True


def _npy(shape: object, descr: str = "<f4", data: bytes = VALUES.tobytes(), version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file whose header says what it likes."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(file, header)
    return file.getvalue() + data


def _npz(path: Path, member: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("user.npy", member)
    return path


def _refused(path: Path, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read_arrays(path, everything)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_formats_of_headers_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    path = _npz(tmp_path / "model.npz", _npy((6, 4), version=version), zipfile.ZIP_DEFLATED)
    assert read_arrays(path, everything)["user"].tobytes() == VALUES.tobytes()


@pytest.mark.parametrize(
    "shape", [(2**60,), (2**60, 2**60), (2**31, 2**31, 2**31), (6, 5), (6, 3), (-6, -4), (-6, 4), (2**64, 0), ()]
)
def test_a_header_that_claims_another_size_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    _refused(_npz(tmp_path / "model.npz", _npy(shape)), "model.npz: the embeddings cannot be read")


@pytest.mark.parametrize("descr", ["|O", "<f4x", "", "<U1000000000", [("a", "|O")], [("a", "<f4")] * 2])
def test_a_type_that_cannot_be_is_refused(tmp_path: Path, descr: str) -> None:
    _refused(_npz(tmp_path / "model.npz", _npy((6, 4), descr)), "model.npz: the embeddings cannot be read")


def test_a_changed_byte_is_found_in_every_format_with_checksums(tmp_path: Path) -> None:
    torch.save({"user": torch.from_numpy(VALUES)}, tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", user=VALUES)
    for path in (tmp_path / "model.pt", tmp_path / "model.npz"):
        whole = path.read_bytes()
        at = whole.index(VALUES.tobytes()) + 9
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="Bad CRC-32"):
            read_arrays(path, everything)


def test_a_bomb_is_refused_unopened(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "model.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("user.npy", "w") as file,
    ):
        file.write(_npy((2**26,), data=b""))
        for _ in range(256):
            file.write(bytes(2**20))
    assert (tmp_path / "model.npz").stat().st_size < 2**19
    _refused(tmp_path / "model.npz", r"would expand from \d+ to 268\d+ bytes, save it uncompressed")


def test_compressed_arrays_of_small_ranges_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 0)
    ids = np.arange(5000)
    np.savez_compressed(tmp_path / "model.npz", user_ids=ids)
    assert (read_arrays(tmp_path / "model.npz", everything)["user_ids"] == ids).all()
    np.savez_compressed(tmp_path / "model.npz", user_ids=np.zeros(100_000))
    with pytest.raises(InputError, match="would expand"):
        read_arrays(tmp_path / "model.npz", everything)


def _rezipped(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """The same archive with other members, its checksums right."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


def test_a_tensor_that_claims_more_than_its_storage_reads_nothing_beyond_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"user": torch.zeros(200, 100)}, path)
    # In the pickle: 20,000 values of the storage, and the sizes 200 and 100, little-endian behind their opcodes.
    larger = {b"M\x20\x4e": b"J\x00\x00\x00\x10", b"K\xc8Kd\x86": b"J\x00\x00\x00\x01K\x10\x86"}

    def claim(name: str, content: bytes) -> bytes:
        if name.endswith("data.pkl"):
            for old, new in larger.items():
                assert content.count(old) >= 1
                content = content.replace(old, new)
        return content

    _rezipped(path, claim)
    with pytest.raises(InputError, match="is damaged, or holds pickled"):
        read_arrays(path, everything)


def test_a_compressed_torch_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"user": torch.zeros(200, 100)}, path)
    _rezipped(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is compressed"):
        read_arrays(path, everything)


@pytest.mark.parametrize(
    "header",
    [
        b'{"user":{"dtype":"F32","shape":[1152921504606846976,16],"data_offsets":[0,96]}}',
        b'{"user":{"dtype":"F32","shape":[6,4],"data_offsets":[0,18446744073709551615]}}',
        b'{"user":{"dtype":"F32","shape":[-6,-4],"data_offsets":[0,96]}}',
        b'{"user":{"dtype":"F32","shape":[6,4],"data_offsets":[96,0]}}',
        b'{"user":{"dtype":"F32","shape":[3,4],"data_offsets":[0,96]}}',
        b'{"__metadata__":{"user_ids":"' + b"[" * 100_000 + b'"}}',
    ],
)
def test_absurd_headers_of_safetensors(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + VALUES.tobytes())
    _refused(path, "model.safetensors: the embeddings cannot be read")


@pytest.mark.parametrize("length", [0, 2**40, 2**63, 2**64 - 1])
def test_absurd_lengths_of_a_safetensors_header(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + VALUES.tobytes())
    _refused(path, "model.safetensors: the embeddings cannot be read")
