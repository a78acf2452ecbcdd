"""The tools around the package: pins, make's settings, the scripts, and thin jobs."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_PINS = [*_PROJECT["dependencies"], *_PROJECT["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("pin", _PINS)
def test_each_requirement_is_pinned_and_installed_in_that_version(pin: str) -> None:
    name, _, version = pin.partition("==")
    assert version, f"{pin} is not pinned"
    # A local version such as 2.13.0+cpu is the same release, built for other hardware.
    assert importlib.metadata.version(re.sub(r"\[.*\]", "", name)).partition("+")[0] == version


def _make(*arguments: str, folder: Path = _ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("environment", "expected"), [({}, "disabled 0"), ({"RAY_AUTH_MODE": "token"}, "token 0")])
def test_make_sets_the_mode_of_ray_unless_the_caller_did(environment: dict[str, str], expected: str) -> None:
    show = "show: ; @echo $$RAY_AUTH_MODE $$RAY_USAGE_STATS_ENABLED"
    assert _make(f"--eval={show}", "show", **environment).stdout == f"{expected}\n"


def test_make_help_lists_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    listed = [line.split()[0] for line in _make("help").stdout.splitlines()]
    assert sorted(listed) == sorted(targets[1].split())


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(_ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    outcome = _make(".venv", f"PYTHON={old}", folder=tmp_path)
    assert outcome.returncode != 0
    assert f"Python 3.11 or newer is needed, but '{old}' is Python 3.9.1" in outcome.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("script", [".ci/run", "cluster/node_setup.sh"])
def test_scripts_are_bash_and_stop_at_the_first_failure(script: str) -> None:
    subprocess.run(["bash", "-n", str(_ROOT / script)], check=True)
    assert "\nset -euo pipefail\n" in (_ROOT / script).read_text()


def test_hooks_come_from_this_repository_only() -> None:
    repositories = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]


def test_jobs_know_of_the_package_only_pipelines_and_what_lies_below_all() -> None:
    allowed = {"ifru_dist.pipelines", "ifru_dist.config", "ifru_dist.errors"}
    for job in sorted((_ROOT / "jobs").glob("*.py")):
        imported = {name for name in _imports(job) if name.split(".")[0] in {"ifru_dist", "ray", "dask", "torch"}}
        rooms = {".".join(name.split(".")[:2]) for name in imported}
        assert rooms <= allowed, f"{job.name} imports {sorted(rooms - allowed)}"


def test_nothing_loads_pickled_objects() -> None:
    files = [
        file for folder in ("ifru_dist", "jobs", "cluster", "benchmarks") for file in (_ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 100
    for file in files:
        assert not {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"} & _imports(file), file
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            match ast.unparse(call.func):
                case "torch.load":
                    assert options["weights_only"] == "True", file
                case "np.load" | "np.lib.format.read_array":
                    assert options["allow_pickle"] == "False", file
                case name:
                    assert not name.endswith("read_pickle"), file


def _imports(file: Path) -> set[str]:
    """Names of all modules that a file imports; ``from a import b`` counts as a.b when a is the package itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ifru_dist":
            names |= {f"ifru_dist.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return names
