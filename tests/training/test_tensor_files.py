"""Files of named arrays: what is written comes back bit for bit, and what is read is never executed."""

import json
import os
import pickle
import random
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import ConfigError, InputError
from ifru_dist.training import tensor_files
from ifru_dist.training.tensor_files import READABLE, WRITABLE, read_arrays, write_arrays

SPECIAL = np.array([[-0.0, 1e-45], [3.4e38, np.pi]], np.float32)
ARRAYS = {
    "user": SPECIAL,
    "user_ids": np.array([2**53 + 1, -7]),
    "item": SPECIAL[:0],
    "item_ids": np.array(["007", 'a "quoted", ü\\é\n'], np.str_),
    "empty_ids": np.array([], np.str_),
    "dense.bias": np.float32(0.1).reshape(()),
}


def everything(name: str) -> bool:
    return True


def saved(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "model.pt", **options)
    return folder / "model.pt"


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", WRITABLE)
def test_what_is_written_comes_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    size_bytes = write_arrays(path, ARRAYS, '{"version": 3}')
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_size == size_bytes
    back = read_arrays(path, lambda name: name != "manifest")
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].shape == array.shape
        if array.dtype.kind != "U":
            assert back[name].dtype == array.dtype
        assert back[name].tolist() == array.tolist()
        if array.dtype == np.float32:
            assert back[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("suffix", WRITABLE)
def test_the_manifest_is_there_for_other_programs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    write_arrays(path, ARRAYS, '{"version": 3}')
    if suffix == ".npz":
        text = str(np.load(path)["manifest"])
    elif suffix == ".pt":
        text = torch.load(path, weights_only=True)["manifest"]
    else:
        header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
        text = json.loads(header)["__metadata__"]["manifest"]
    assert json.loads(text) == {"version": 3}


@pytest.mark.parametrize("suffix", WRITABLE)
def test_arrays_that_do_not_lie_in_one_piece_are_written_as_they_look(tmp_path: Path, suffix: str) -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"columns": whole[:, ::2], "transposed": whole.T, "frozen": whole.copy()}
    views["frozen"].flags.writeable = False
    write_arrays(tmp_path / f"model{suffix}", views, "")
    back = read_arrays(tmp_path / f"model{suffix}", views.__contains__)
    assert all(np.array_equal(back[name], view) for name, view in views.items())


@pytest.mark.parametrize("suffix", WRITABLE)
def test_everybody_may_read_what_the_umask_lets_them(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "other").touch()
    write_arrays(tmp_path / f"model{suffix}", ARRAYS, "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", f"model{suffix}")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos")])
def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(
    tmp_path: Path, suffix: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"model{suffix}"
    write_arrays(path, ARRAYS, "")
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((OSError, ConfigError)) as raised:
        write_arrays(path, {"user": SPECIAL}, "")
    assert "could not be written (unexpected pos)" in str(raised.value) or raised.value is error
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


def test_more_text_than_a_safetensors_header_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "_SAFETENSORS_HEADER_BYTES", 20)
    message = r"item_ids and empty_ids take \d+ bytes, and .safetensors has room for 20 bytes of text: write .npz or"
    with pytest.raises(ConfigError, match=message):
        write_arrays(tmp_path / "model.safetensors", ARRAYS, "")
    assert os.listdir(tmp_path) == []
    write_arrays(tmp_path / "model.npz", ARRAYS, "")


# ---------------------------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("suffix", [suffix for suffix in READABLE if ".p" in suffix])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_under_each_of_its_endings(tmp_path: Path, suffix: str, zipped: bool) -> None:
    state = OrderedDict(user=torch.nn.Parameter(torch.from_numpy(SPECIAL)), step=torch.tensor(3))
    path = saved(tmp_path, state, _use_new_zipfile_serialization=zipped).rename(tmp_path / f"lgn-{suffix}{suffix}")
    arrays = read_arrays(path, everything)
    assert arrays["user"].tobytes() == SPECIAL.tobytes()
    assert arrays["step"].tolist() == 3


def test_a_state_dict_within_another_dictionary(tmp_path: Path) -> None:
    content = {"epoch": 3, "optimizer": {"lr": 0.1}, "user_ids": [5, 6], "state_dict": {"user": torch.ones(2, 1)}}
    arrays = read_arrays(saved(tmp_path, content), lambda name: name.startswith("user"))
    assert {name: array.tolist() for name, array in arrays.items()} == {"user": [[1], [1]], "user_ids": [5, 6]}


def test_halves_become_single_and_doubles_stay(tmp_path: Path) -> None:
    kinds = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64]
    path = saved(tmp_path, {str(kind): torch.tensor([1.5], dtype=kind) for kind in kinds})
    arrays = read_arrays(path, everything)
    assert [array.dtype for array in arrays.values()] == [np.float32] * 3 + [np.float64]
    assert all(array.tolist() == [1.5] for array in arrays.values())


@pytest.mark.parametrize("kind", ["zip", "before zip", "pickle", "pickle 2", "nested"])
def test_a_pickle_is_never_executed(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "model.pt"
    content = {"user": torch.ones(2, 1), "config": Bomb(target)}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(Bomb(target), protocol=int(kind[7:] or 4)))
    elif kind == "nested":
        saved(tmp_path, {"state_dict": {"user": [[content]]}})
    else:
        saved(tmp_path, content, _use_new_zipfile_serialization=kind == "zip")
    message = "holds pickled Python objects, which are never loaded .*: export tensors alone .* docs/formats.md shows"
    with pytest.raises(InputError, match=message) as raised:
        read_arrays(path, everything)
    assert not target.exists()
    assert "weights_only" not in str(raised.value)  # torch recommends to switch that off
    assert "\n" not in str(raised.value)
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()  # it would have gone off


@pytest.mark.parametrize("forced", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_the_environment_cannot_have_pickles_executed(
    tmp_path: Path, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(forced, "1")
    path = saved(tmp_path, {"config": Bomb(tmp_path / "executed")})
    with pytest.raises(InputError, match="never loaded"):
        read_arrays(path, everything)
    assert not (tmp_path / "executed").exists()


def test_whole_modules_and_arrays_of_numpy_are_pickles_too(tmp_path: Path) -> None:
    for content in (torch.nn.Linear(2, 1), {"user": np.zeros((2, 1))}, {"user": SPECIAL.tolist(), "x": Path("a")}):
        with pytest.raises(InputError, match="never loaded"):
            read_arrays(saved(tmp_path, content), everything)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "holds a Tensor: save a dictionary of named tensors"),
        ([torch.ones(2)], "holds a list: save a dictionary"),
        ({"user": {"a": 1}}, "'user' is a dict: save it as a tensor or a list"),
        ({"user": "text"}, "'user' is a str: save it"),
        ({"user": torch.ones(2, 2).to_sparse()}, "tensor 'user' is torch.sparse_coo, torch.float32, on cpu: save it"),
        ({"user": torch.ones(2, 2, device="meta")}, "tensor 'user' is torch.strided, torch.float32, on meta: save it"),
        ({"user": [[1], [2, 3]]}, "the embeddings cannot be read"),
    ],
)
def test_torch_files_of_other_things(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"model.pt: {message}"):
        read_arrays(saved(tmp_path, content), everything)


def test_names_that_are_no_text_are_left_alone(tmp_path: Path) -> None:
    assert list(read_arrays(saved(tmp_path, {0: torch.ones(1), "user": torch.ones(1)}), everything)) == ["user"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\xff" * 100, b"hello", b"\x80\x02}q\x00."])
def test_a_torn_file_of_torchs_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"model.pt: (is damaged, or holds pickled|.* cannot be read \(BadZipFile)"):
        read_arrays(tmp_path / "model.pt", everything)


@pytest.mark.parametrize("zipped", [True, False])
def test_any_change_of_a_file_is_read_or_refused(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, {"user": torch.ones(2, 2), "user_ids": ["a", "b"]}, _use_new_zipfile_serialization=zipped)
    whole, chance = path.read_bytes(), random.Random(4)
    refused = 0
    for _ in range(200):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed[: chance.choice([len(changed), chance.randrange(len(changed))])])
        try:
            read_arrays(path, {"user", "user_ids"}.__contains__)
        except InputError:
            refused += 1
    assert 50 < refused < 200


@pytest.mark.parametrize("name", ["model.pt", "model.pth.tar"])
def test_a_torch_file_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"the embeddings cannot be read \(.*No such file.*\): check the path"):
        read_arrays(tmp_path / name, everything)
