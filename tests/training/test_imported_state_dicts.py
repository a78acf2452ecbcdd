"""State dicts of other projects, ids from lists, and dense parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ifru_dist.errors import ConfigError, InputError
from ifru_dist.training.imported import load_embeddings

TABLES = {"user": np.array([30, 10, 20]), "item": np.array(["x", "ü"], object)}
USER = np.arange(8, dtype=np.float32).reshape(4, 2)
ITEM = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)
USER_IDS, ITEM_IDS = [10, 20, 30, 40], ["ü", "x"]
EXPECTED = np.array([[4, 5], [0, 1], [2, 3], [3.5, 4.5], [1.5, 2.5]], np.float32)
IDS = {"user_ids": torch.tensor(USER_IDS), "item_ids": ITEM_IDS}
NAMES = [
    ("user", "item"),
    ("embedding_user.weight", "embedding_item.weight"),
    ("user_embedding.weight", "item_embedding.weight"),
]


def state(names: tuple[str, str] = NAMES[1], **more: Any) -> dict[str, Any]:
    """A state dict with tables under some names."""
    return {names[0]: torch.from_numpy(USER), names[1]: torch.from_numpy(ITEM), **more}


def saved(folder: Path, content: dict[str, Any]) -> Path:
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A folder of LightGCN-PyTorch's lists for ``state()``."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, ids in (("user_list.txt", USER_IDS), ("item_list.txt", ITEM_IDS)):
        lines = [f"{identifier} {row}\n" for row, identifier in enumerate(ids)]
        (folder / name).write_text("org_id remap_id\n" + "".join(reversed(lines)))
    return folder


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_names_of_other_projects(tmp_path: Path, names: tuple[str, str], wrapped: bool) -> None:
    content = {"epoch": 3, "state_dict": state(names)} if wrapped else state(names, buffer=torch.ones(1))
    imported = load_embeddings(saved(tmp_path, content | IDS), TABLES)
    assert imported.embeddings.dtype == np.float32
    np.testing.assert_array_equal(imported.embeddings, EXPECTED)
    assert imported.ignored == {"user": 1, "item": 0}
    assert imported.dense == {}


@pytest.mark.parametrize("names", NAMES[1:])
def test_the_same_names_in_npz_and_safetensors(tmp_path: Path, names: tuple[str, str], lists: Path) -> None:
    np.savez(tmp_path / "model.npz", **{name: tensor.numpy() for name, tensor in state(names).items()})
    save_file(state(names), tmp_path / "model.safetensors")
    for name in ("model.npz", "model.safetensors"):
        imported = load_embeddings(tmp_path / name, TABLES, ids_from=lists)
        np.testing.assert_array_equal(imported.embeddings, EXPECTED)


def test_two_names_of_one_table_are_not_chosen_between(tmp_path: Path) -> None:
    path = saved(tmp_path, state(item=torch.zeros(2, 2), **IDS))
    with pytest.raises(InputError, match=r"model.pt: holds 'item' and 'embedding_item.weight': leave all but one out"):
        load_embeddings(path, TABLES)


def test_numbers_whose_products_are_none_are_refused(tmp_path: Path) -> None:
    spoilt = state(**IDS) | {"embedding_item.weight": torch.full((2, 2), -1e25)}
    with pytest.raises(InputError, match=r"array 'embedding_item.weight' holds values up to 1e\+25, of which no score"):
        load_embeddings(saved(tmp_path, spoilt), TABLES)


def test_messages_name_the_array_as_the_file_does(tmp_path: Path) -> None:
    spoilt = state(**IDS) | {"embedding_item.weight": torch.full((2, 2), torch.nan)}
    with pytest.raises(InputError, match=r"array 'embedding_item.weight' holds NaN or infinity in 2 rows"):
        load_embeddings(saved(tmp_path, spoilt), TABLES)


# ------------------------------------------------------------------------------------------------------------------ ids


def test_ids_from_the_lists_of_lightgcn_pytorch(tmp_path: Path, lists: Path) -> None:
    imported = load_embeddings(saved(tmp_path, state()), TABLES, ids_from=lists)
    np.testing.assert_array_equal(imported.embeddings, EXPECTED)
    assert imported.ignored == {"user": 1, "item": 0}


def test_without_ids_the_option_is_named(tmp_path: Path) -> None:
    message = r"no array 'user_ids', 'item_ids': the file must hold user, user_ids, .*, and --from-ids gives ids"
    with pytest.raises(InputError, match=message):
        load_embeddings(saved(tmp_path, state()), TABLES)


def test_with_lists_only_tables_are_missed(tmp_path: Path, lists: Path) -> None:
    message = r"no array 'item': the file must hold user, item; docs/formats.md has other names"
    with pytest.raises(InputError, match=message):
        load_embeddings(saved(tmp_path, {"user": torch.from_numpy(USER)}), TABLES, ids_from=lists)


@pytest.mark.parametrize("present", ["user_ids", "item_ids"])
def test_ids_stand_in_one_place_only(tmp_path: Path, lists: Path, present: str) -> None:
    path = saved(tmp_path, state(**{present: IDS[present]}))
    with pytest.raises(ConfigError, match=f"--from-ids = {lists}: {path} holds {present} itself: leave --from-ids"):
        load_embeddings(path, TABLES, ids_from=lists)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("10 0\n20 1\n30 2\n", "has 3 ids for the 4 rows of 'embedding_user.weight': export one id for each embedding"),
        ("10 0\n20 1\n30 2\n30 3\n", "holds 1 ids more than once, the first again in row 3: keep"),
        ("10 0\n20 1\n31 2\n40 3\n", "lacks 1 of the workspace's 3 ids of table 'user': train on"),
    ],
)
def test_lists_are_checked_like_the_ids_of_a_file(tmp_path: Path, lists: Path, lines: str, message: str) -> None:
    (lists / "user_list.txt").write_text("org_id remap_id\n" + lines)
    with pytest.raises(InputError, match=f"{lists}/user_list.txt {message}"):
        load_embeddings(saved(tmp_path, state()), TABLES, ids_from=lists)


def test_a_padding_row_is_noticed_by_its_number(tmp_path: Path, lists: Path) -> None:
    padded = {"user_embedding.weight": torch.zeros(5, 2), "item_embedding.weight": torch.zeros(3, 2)}
    with pytest.raises(InputError, match=r"has 4 ids for the 5 rows of 'user_embedding.weight'"):
        load_embeddings(saved(tmp_path, padded), TABLES, ids_from=lists)


# ---------------------------------------------------------------------------------------------------------------- dense

DENSE = {"bias": (), "mlp.0.weight": (2, 3)}
VALUES = {"bias": torch.tensor(0.5), "mlp.0.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.mark.parametrize("prefix", ["dense.", ""])
def test_dense_parameters_come_along(tmp_path: Path, prefix: str) -> None:
    content = state(**IDS, **{prefix + name: values for name, values in VALUES.items()})
    imported = load_embeddings(saved(tmp_path, content), TABLES, expected_dense=DENSE)
    assert list(imported.dense) == list(DENSE)
    for name, values in VALUES.items():
        assert imported.dense[name].dtype == np.float32
        np.testing.assert_array_equal(imported.dense[name], values.numpy())
    np.testing.assert_array_equal(imported.embeddings, EXPECTED)


def test_dense_parameters_in_npz_and_safetensors(tmp_path: Path, lists: Path) -> None:
    content = state(**{f"dense.{name}": values for name, values in VALUES.items()})
    np.savez(tmp_path / "model.npz", **{name: tensor.numpy() for name, tensor in content.items()})
    save_file(content, tmp_path / "model.safetensors")
    for name in ("model.npz", "model.safetensors"):
        dense = load_embeddings(tmp_path / name, TABLES, ids_from=lists, expected_dense=DENSE).dense
        assert {key: values.tolist() for key, values in dense.items()} == {
            key: values.tolist() for key, values in VALUES.items()
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense.bias": None}, "no array dense.bias, but the model's dense parameters are: bias, mlp.0.weight: check"),
        ({"dense.more": torch.ones(1)}, "an array dense.more, but the model's dense parameters are: bias, mlp.0.weig"),
        (
            {"dense.bias": torch.ones(1)},
            r"array 'dense.bias' has shape \(1,\) .*: the model needs floats of shape",
        ),
        ({"dense.bias": torch.tensor(1)}, r"array 'dense.bias' has shape \(\) and type int64: the model needs floats"),
        ({"dense.bias": torch.tensor(torch.inf)}, "array 'dense.bias' holds NaN or infinity: export a model whose"),
        ({"dense.bias": torch.tensor(1e300).double()}, "array 'dense.bias' holds NaN or infinity"),
        ({"bias": torch.tensor(1.0)}, "holds 'dense.bias' and 'bias': leave all but one out"),
    ],
)
def test_dense_parameters_that_do_not_fit_the_model(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = state(**IDS, **{f"dense.{name}": values for name, values in VALUES.items()}) | changes
    path = saved(tmp_path, {name: values for name, values in content.items() if values is not None})
    with pytest.raises(InputError, match=f"model.pt: .*{message}"):
        load_embeddings(path, TABLES, expected_dense=DENSE)


def test_a_model_without_dense_parameters_refuses_some(tmp_path: Path) -> None:
    path = saved(tmp_path, state(**IDS, **{"dense.w": torch.ones(1)}))
    with pytest.raises(InputError, match=r"an array dense.w, but the model's dense parameters are: none: check"):
        load_embeddings(path, TABLES, expected_dense={})


def test_dense_parameters_are_left_alone_until_the_model_is_known(tmp_path: Path) -> None:
    imported = load_embeddings(saved(tmp_path, state(**IDS, **{"dense.w": "no tensor"})), TABLES)
    np.testing.assert_array_equal(imported.embeddings, EXPECTED)
    assert imported.dense == {}
