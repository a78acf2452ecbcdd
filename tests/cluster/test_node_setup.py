"""The set-up of a node, with a stand-in for Python that records the installations."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "node_setup.sh"


class _Node:
    """A home folder, a project, a shared folder, and a Python of a given age."""

    def __init__(self, folder: Path) -> None:
        self.home, self.project, self.shared = (folder / name for name in ("home", "project", "shared"))
        for path in (self.home, self.project / "ifru_dist", self.project / "cluster", self.shared):
            path.mkdir(parents=True)
        (self.project / "pyproject.toml").write_text("[project]\n")
        (self.project / "ifru_dist" / "errors.py").write_text("one = 1\n")
        self.python = folder / "python"
        self.log = folder / "installed.txt"
        self.set_python(old=False)

    def set_python(self, *, old: bool) -> None:
        cases = f'-c) exit {int(old)} ;;\n--version) echo Python 3.9.1 ;;\n*) echo "$@" >>{self.log} ;;'
        self.python.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\nesac\n')
        self.python.chmod(0o755)

    def set_up(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(_SCRIPT), str(self.project), str(self.shared)],
            env=os.environ | {"HOME": str(self.home), "PYTHON": str(self.python)},
            capture_output=True,
            text=True,
            check=False,
        )

    def installations(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def node(tmp_path: Path) -> _Node:
    return _Node(tmp_path)


def test_installs_once_and_again_only_after_a_change(node: _Node) -> None:
    first, second = node.set_up(), node.set_up()
    assert (first.returncode, second.returncode, node.installations()) == (0, 0, 1)
    assert str(node.project) in node.log.read_text()
    assert "up to date" in second.stdout
    (node.project / "ifru_dist" / "errors.py").write_text("one = 2\n")
    assert node.set_up().returncode == 0
    assert node.installations() == 2
    (node.project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert node.set_up().returncode == 0
    assert node.installations() == 3
    assert not list(node.shared.iterdir())


def test_a_failed_installation_is_tried_again(node: _Node) -> None:
    working = node.python.read_text()
    node.python.write_text(working.replace("*) echo", "*) exit 9; echo"))
    assert node.set_up().returncode != 0
    node.python.write_text(working)
    assert node.set_up().returncode == 0
    assert node.installations() == 1


def test_an_old_python_is_refused(node: _Node) -> None:
    node.set_python(old=True)
    outcome = node.set_up()
    assert outcome.returncode == 1
    assert "Python 3.11 or newer is needed" in outcome.stderr
    assert "Python 3.9.1" in outcome.stderr


def test_a_missing_shared_folder_is_refused(node: _Node) -> None:
    shutil.rmtree(node.shared)
    outcome = node.set_up()
    assert outcome.returncode == 1
    assert "mount the shared file system there" in outcome.stderr
    assert node.installations() == 0


def test_a_project_that_was_not_synced_is_refused(node: _Node) -> None:
    (node.project / "pyproject.toml").unlink()
    outcome = node.set_up()
    assert outcome.returncode == 1
    assert "sync the repository there first" in outcome.stderr
