import json
from pathlib import Path

import numpy as np
import pytest

from ifru_dist.evaluation.report import markdown_table, unused_folder, write_report


def test_report_is_stable_and_readable(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "new"
    report = {"b": np.float32(0.5), "a": [np.int64(3), float("nan")], "c": {"z": float("inf"), "y": Path("some/file")}}
    write_report(folder, report, "# Done\n\n")
    text = (folder / "report.json").read_text()
    assert json.loads(text) == {"a": [3, None], "b": 0.5, "c": {"y": "some/file", "z": None}}
    assert text.index('"a"') < text.index('"b"') < text.index('"c"')
    assert '\n  "b": 0.5' in text
    assert text.endswith("}\n")
    assert (folder / "summary.md").read_text() == "# Done\n"
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "summary.md"]


def test_equal_reports_are_equal_bytes(tmp_path: Path) -> None:
    write_report(tmp_path / "one", {"a": 1, "b": (2, 3)}, "")
    write_report(tmp_path / "two", {"b": np.array([2, 3]), "a": 1}, "")
    assert (tmp_path / "one" / "report.json").read_bytes() == (tmp_path / "two" / "report.json").read_bytes()


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    write_report(tmp_path, {"a": 1}, "first")
    with pytest.raises(TypeError, match="set"):
        write_report(tmp_path, {"a": {1, 2}}, "second")
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": 1}
    assert (tmp_path / "summary.md").read_text() == "first\n"


def test_a_failed_replacement_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, {"a": 1}, "first")

    def fail(self: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, {"a": 2}, "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "summary.md"]
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": 1}


def test_every_unused_folder_is_another_one(tmp_path: Path) -> None:
    made = [unused_folder(tmp_path / "reports" / "audit-000004") for _ in range(3)]
    assert [folder.name for folder in made] == ["audit-000004", "audit-000004-2", "audit-000004-3"]
    assert all(folder.is_dir() for folder in made)
    made[1].rmdir()
    (tmp_path / "reports" / "audit-000004-2").write_text("a file")
    assert unused_folder(tmp_path / "reports" / "audit-000004").name == "audit-000004-4"


def test_markdown_table() -> None:
    rows = [{"model": "a|b", "auc": 0.123456, "n": 12_345}, {"model": "c", "auc": None, "n": np.int64(7)}]
    assert markdown_table(rows) == "| model | auc | n |\n| --- | --- | --- |\n| a\\|b | 0.1235 | 12345 |\n| c | - | 7 |"
    assert markdown_table([]) == ""
