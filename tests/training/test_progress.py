import sys

import pytest

from ifru_dist.training.progress import EpochProgress

ENTRY = {"epoch": 1, "loss": 0.6931, "valid_auc": 0.5123, "seconds": 1.25}


def test_a_line_per_epoch_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with EpochProgress(20, show=True) as progress:
        progress.report(ENTRY)
        progress.report({"epoch": 2, "loss": 0.5, "valid_recall_at_20": 0.1, "seconds": 1.0})
        progress.report({"epoch": 3, "loss": 0.4, "seconds": 1.0})
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/20  loss 0.6931  valid AUC 0.5123  1.2 s",
        "epoch 2/20  loss 0.5000  valid recall at 20 0.1000  1.0 s",
        "epoch 3/20  loss 0.4000  1.0 s",
    ]


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with EpochProgress(20, show=True) as progress:
        progress.report(ENTRY)
    shown = capsys.readouterr().err
    assert "epoch 1/20" not in shown
    assert "1/20" in shown
    assert "valid AUC 0.5123" in shown


@pytest.mark.parametrize("on_terminal", [False, True])
def test_nothing_when_not_asked(
    on_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    with EpochProgress(20, show=False) as progress:
        progress.report(ENTRY)
    assert capsys.readouterr().err == ""
