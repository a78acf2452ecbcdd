import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ifru_dist.errors import InputError
from ifru_dist.training.imported import load_embeddings

USERS, ITEMS = np.array([30, 10, 20]), np.array(["x", "ü y"])
TABLES = {"user": USERS, "item": ITEMS}


def good() -> dict[str, Any]:
    """Arrays of a file that fits TABLES: ids in another order, one user too many."""
    return {
        "user": np.arange(8, dtype=np.float32).reshape(4, 2),
        "user_ids": np.array([10, 20, 30, 40]),
        "item": np.array([[1.5, 2.5], [3.5, 4.5]]),
        "item_ids": np.array(["ü y", "x"]),
    }


def npz(folder: Path, **changes: Any) -> Path:
    """Write ``good()`` with changed arrays (None: left out) as .npz."""
    arrays = {name: array for name, array in {**good(), **changes}.items() if array is not None}
    np.savez(folder / "model.npz", **arrays)
    return folder / "model.npz"


def tensors(folder: Path, metadata: dict[str, str], **changes: Any) -> Path:
    """Write ``good()`` without its string ids, with changes, as .safetensors."""
    arrays = {**good(), "item_ids": None, **changes}
    save_file(
        {name: torch.as_tensor(array) for name, array in arrays.items() if array is not None},
        folder / "model.safetensors",
        metadata=metadata,
    )
    return folder / "model.safetensors"


EXPECTED = np.array([[4, 5], [0, 1], [2, 3], [3.5, 4.5], [1.5, 2.5]], dtype=np.float32)


def test_npz_rows_come_in_the_workspaces_order(tmp_path: Path) -> None:
    imported = load_embeddings(npz(tmp_path), TABLES)
    assert imported.embeddings.dtype == np.float32
    np.testing.assert_array_equal(imported.embeddings, EXPECTED)
    assert imported.ignored == {"user": 1, "item": 0}


def test_safetensors_with_integer_tensor_and_string_ids_in_metadata(tmp_path: Path) -> None:
    path = tensors(tmp_path, {"item_ids": json.dumps(["ü y", "x"]), "format": "pt"})
    imported = load_embeddings(path, TABLES)
    np.testing.assert_array_equal(imported.embeddings, EXPECTED)
    assert imported.ignored == {"user": 1, "item": 0}


def test_safetensors_in_bfloat16(tmp_path: Path) -> None:
    halves = {name: torch.as_tensor(good()[name]).bfloat16() for name in ("user", "item")}
    path = tensors(tmp_path, {"item_ids": json.dumps(["ü y", "x"])}, **halves)
    np.testing.assert_array_equal(load_embeddings(path, TABLES).embeddings, EXPECTED)


@pytest.mark.parametrize("strings", ["workspace", "file"])
@pytest.mark.parametrize("dtype", [str, object])
def test_integer_ids_match_the_same_ids_as_strings(tmp_path: Path, strings: str, dtype: type) -> None:
    tables, changes = dict(TABLES), {}
    if strings == "workspace":
        tables["user"] = USERS.astype(str).astype(dtype)
    else:
        changes["user_ids"] = good()["user_ids"].astype(str)
    np.testing.assert_array_equal(load_embeddings(npz(tmp_path, **changes), tables).embeddings, EXPECTED)


def test_strings_are_not_read_as_numbers(tmp_path: Path) -> None:
    tables = {**TABLES, "user": np.array(["030", "10", "20"])}
    with pytest.raises(InputError, match=r"lacks 1 of the workspace's 3 ids of table 'user': train"):
        load_embeddings(npz(tmp_path), tables)


def test_missing_ids_are_counted_and_not_shown(tmp_path: Path) -> None:
    tables = {**TABLES, "user": np.array([10, 1, 2, 3, 4, 5])}
    message = r"model.npz: array 'user_ids' lacks 5 of the workspace's 6 ids of table 'user': train on"
    with pytest.raises(InputError, match=message):
        load_embeddings(npz(tmp_path), tables)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item": None}, r"no array 'item': the file must hold user, user_ids, item, item_ids"),
        ({"item": None, "user_ids": None}, r"no array 'user_ids', 'item': the file"),
        ({"user": np.zeros(4)}, r"array 'user' has shape \(4,\) and type float64: .* \(rows, dim\)"),
        ({"user": np.zeros((4, 2), int)}, r"array 'user' has shape \(4, 2\) and type int64: embeddings must be floats"),
        ({"user": np.zeros((4, 0))}, r"array 'user' has shape \(4, 0\)"),
        ({"user": np.full((4, 2), np.nan)}, r"array 'user' holds NaN or infinity in 4 rows, first in row 0: export"),
        ({"item": np.array([[0, 1], [0, np.inf]])}, r"array 'item' holds NaN or infinity in 1 rows, first in row 1"),
        ({"item": np.array([[0, 1e300], [0, 1]])}, r"array 'item' holds NaN or infinity in 1 rows, first in row 0"),
        ({"item": np.zeros((2, 3))}, r"array 'item' has 3 dimensions, the tables before it 2: export all tables"),
        ({"user_ids": np.arange(3)}, r"array 'user_ids' has 3 ids for the 4 rows of 'user': export one id"),
        (
            {"user_ids": np.array([10, 20, 30, 30])},
            r"holds 1 ids more than once, the first again in row 3: keep",
        ),
        ({"user_ids": np.array([1.0, 2, 3, 4])}, r"array 'user_ids' has shape \(4,\) and type float64: ids must be"),
        ({"user_ids": np.zeros((4, 1), int)}, r"array 'user_ids' has shape \(4, 1\)"),
        ({"user_ids": np.array([10, 20, 30, 40], object)}, r"cannot be read \(.*allow_pickle=False\): check the path"),
    ],
)
def test_an_unusable_npz_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = npz(tmp_path, **changes)
    with pytest.raises(InputError, match=f"model.npz: .*{message}") as raised:
        load_embeddings(path, TABLES)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"no array 'item_ids'"),
        ({"item_ids": "['a']"}, r"cannot be read"),
        ({"item_ids": '{"a": 1}'}, r"array 'item_ids' has shape \(\) and type object"),
        ({"item_ids": '["x", "x"]'}, r"array 'item_ids' holds 1 ids more than once, the first again in row 1: keep"),
        ({"item_ids": '[["x"], ["y", "z"]]'}, r"cannot be read"),
    ],
)
def test_unusable_ids_in_safetensors_metadata(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=f"model.safetensors: .*{message}"):
        load_embeddings(tensors(tmp_path, metadata), TABLES)


@pytest.mark.parametrize("name", ["model.npz", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not really an archive", b"\xff" * 100])
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: the embeddings cannot be read .*: check the path") as raised:
        load_embeddings(tmp_path / name, TABLES)
    assert "\n" not in str(raised.value)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, user=np.random.default_rng(0).normal(size=(4, 2)))
    damaged = bytearray(path.read_bytes())
    damaged[150] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="cannot be read"):
        load_embeddings(path, TABLES)


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "model.npy", np.zeros((4, 2)))
    (tmp_path / "model.npy").rename(tmp_path / "model.npz")
    with pytest.raises(InputError, match=r"BadZipFile: .*: check the path, or export again"):
        load_embeddings(tmp_path / "model.npz", TABLES)


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.bin: embeddings cannot be read from '.bin': save them as .npz, "):
        load_embeddings(tmp_path / "model.bin", TABLES)
