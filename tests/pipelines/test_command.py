import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from ifru_dist.errors import InputError, SolveError
from ifru_dist.pipelines.command import run_command

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class _Config:
    """Do something."""

    name: str
    """Whom to greet."""
    workers: Annotated[int, Field(ge=1)] = 2
    """How many at once."""
    mode: Literal["slow", "fast"] = "slow"
    """In what way."""


def _run(monkeypatch: pytest.MonkeyPatch, pipeline: Callable[[_Config], int | None], *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["job.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_command(_Config, pipeline)
    return caught.value.code


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (9, 9)])
def test_the_status_is_what_the_pipeline_returns(
    monkeypatch: pytest.MonkeyPatch, result: int | None, status: int
) -> None:
    seen = []

    def pipeline(config: _Config) -> int | None:
        seen.append(config)
        return result

    assert _run(monkeypatch, pipeline, "--name", "x", "--mode", "fast") == status
    assert seen == [_Config(name="x", mode="fast")]


@pytest.mark.parametrize("error", [InputError("a\n  b"), SolveError("c")])
def test_a_known_error_is_one_line_and_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: InputError | SolveError
) -> None:
    def pipeline(config: _Config) -> None:
        raise error

    assert _run(monkeypatch, pipeline, "--name", "x") == error.exit_code
    captured = capsys.readouterr()
    assert captured.err == f"error: {' '.join(str(error).split())}\n"
    assert captured.out == ""


def test_a_value_out_of_range_names_option_value_and_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, lambda config: None, "--name", "x", "--workers", "0") == 2
    error = capsys.readouterr().err
    assert error == "error: --workers = 0: input should be greater than or equal to 1\n"


@pytest.mark.parametrize("arguments", [(), ("--name", "x", "--mode", "other"), ("--name", "x", "--unknown", "1")])
def test_a_command_line_that_cannot_be_parsed_is_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    assert _run(monkeypatch, lambda config: None, *arguments) == 2


def test_help_shows_the_text_of_every_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, lambda config: None, "--help") == 0
    text = capsys.readouterr().out
    for expected in ("Do something.", "Whom to greet.", "How many at once.", "--workers", "{slow,fast}"):
        assert expected in text


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def pipeline(config: _Config) -> None:
        raise KeyboardInterrupt

    assert _run(monkeypatch, pipeline, "--name", "x") == 130
    assert capsys.readouterr().err == "error: interrupted\n"


_PRINTS = """
import sys
from dataclasses import dataclass
from ifru_dist.pipelines.command import run_command
@dataclass(frozen=True, kw_only=True)
class Config:
    name: str = "x"
Config.__doc__ = "Do. " + "A long text. " * int(sys.argv.pop(1))
def pipeline(config):
    print("done")
    return 9
run_command(Config, pipeline)
"""


@pytest.mark.parametrize(
    ("length", "options", "status"), [(1, ["--help"], 0), (20_000, ["--help"], 0), (1, [], 9)], ids=str
)
def test_output_whose_reader_is_gone_is_dropped_without_a_word(length: int, options: list[str], status: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", _PRINTS, str(length), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        finished = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=_ROOT, env=environment
        )
    finally:
        os.close(writing)
    assert (finished.stderr, finished.returncode) == ("", status)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipeline(config: _Config) -> None:
        raise ZeroDivisionError("defect")

    monkeypatch.setattr(sys, "argv", ["job.py", "--name", "x"])
    with pytest.raises(ZeroDivisionError, match="defect"):
        run_command(_Config, pipeline)
