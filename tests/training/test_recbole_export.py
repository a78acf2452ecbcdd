"""The export script of docs/formats.md, run against stand-ins for the few names of RecBole that it uses."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from ifru_dist.training.imported import load_embeddings

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
USERS, ITEMS = torch.arange(8.0).reshape(4, 2), torch.arange(6.0).reshape(3, 2) + 100


def script() -> str:
    """The block of the documentation that imports RecBole."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return next(block for block in blocks if "from recbole" in block)


def stand_ins(opened: list[str]) -> dict[str, ModuleType]:
    """``load_data_and_model`` as of RecBole 1.2.1: six values; tables and tokens begin with the padding."""
    dataset = SimpleNamespace(
        uid_field="uid",
        iid_field="movie",
        field2id_token={"uid": np.array(["[PAD]", "7", "196", "42"]), "movie": np.array(["[PAD]", "ü", "242"])},
    )
    model = torch.nn.Module()
    model.user_embedding = torch.nn.Embedding.from_pretrained(USERS, freeze=False)
    model.item_embedding = torch.nn.Embedding.from_pretrained(ITEMS, freeze=False)
    quick_start = ModuleType("recbole.quick_start")
    quick_start.load_data_and_model = lambda model_file: (  # type: ignore[attr-defined]
        opened.append(model_file) or "config",
        model,
        dataset,
        *("train", "valid", "test"),
    )
    return {"recbole": ModuleType("recbole"), "recbole.quick_start": quick_start}


def test_the_documented_export_of_recbole_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for name, module in stand_ins(opened).items():
        monkeypatch.setitem(sys.modules, name, module)
    path = tmp_path / "model.npz"
    monkeypatch.setattr(sys, "argv", ["export.py", "saved/LightGCN.pth", str(path)])
    exec(compile(script(), str(DOCS), "exec"), {})
    assert opened == ["saved/LightGCN.pth"]
    imported = load_embeddings(path, {"user": np.array([42, 7]), "item": np.array(["242", "ü"])})
    assert imported.embeddings.tolist() == [[6, 7], [2, 3], [104, 105], [102, 103]]
    assert imported.ignored == {"user": 1, "item": 0}
