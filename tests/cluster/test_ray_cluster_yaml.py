"""The cluster-launcher file, by Ray's own rules and ours."""

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((_ROOT / "ray_cluster.yaml").read_text())


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_ray_would_refuse_a_mistake(config: dict[str, Any]) -> None:
    config["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config))


def test_each_container_has_the_pinned_version_of_ray(config: dict[str, Any]) -> None:
    pins = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    version = next(pin.split("==")[1] for pin in pins if pin.startswith("ray["))
    images = re.findall(r"rayproject/ray:(\S+)", (_ROOT / "ray_cluster.yaml").read_text())
    assert len(images) == 2
    assert all(image.startswith(f"{version}-py311") for image in images)


def test_a_token_is_demanded_and_every_node_has_it(config: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    token = next(
        option.partition("RAY_AUTH_TOKEN_PATH=")[2]
        for option in config["docker"]["run_options"]
        if "RAY_AUTH_TOKEN_PATH=" in option
    )
    assert config["file_mounts"][token] == "~/.ray/auth_token"


def test_the_dashboard_answers_on_loopback_only(config: dict[str, Any]) -> None:
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start.split()


def test_the_set_up_of_a_node_finds_what_is_synced_and_mounted(config: dict[str, Any]) -> None:
    (command,) = config["setup_commands"]
    _, script, project, shared = command.split()
    assert config["file_mounts"][project] == "."
    assert (_ROOT / Path(script).relative_to(project)).is_file()
    assert f"--volume {shared}:{shared}" in config["docker"]["run_options"]
    assert any("mount -t nfs4" in step and step.endswith(f" {shared}") for step in config["initialization_commands"])
