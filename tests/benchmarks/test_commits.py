import json
from pathlib import Path

import pytest

from benchmarks import commits


def test_commits_are_timed_in_both_workspaces_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "LARGER", 3)
    folder = tmp_path / "folder"
    folder.mkdir()
    commits.main(commits.Config(interactions=1000, commits=4, folder=folder, output=tmp_path / "results"))
    assert list(folder.iterdir()) == []
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    assert set(record) == {"date", "command", "results"}
    assert record["results"]["commits"] == 4
    assert set(record["results"]["interactions"]) == {"1000", "3000"}
    for figures in record["results"]["interactions"].values():
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
    printed = capsys.readouterr().out
    assert "3,000 interactions: p50_ms " in printed
    assert "ratio " in printed
