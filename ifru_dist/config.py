"""Validation of the jobs' configs: frozen dataclasses whose fields carry pydantic constraints."""

from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ifru_dist.errors import ConfigError

ConfigT = TypeVar("ConfigT")


def validated(config: ConfigT) -> ConfigT:
    """Check a config dataclass against the constraints of its annotations.

    Raises:
        ConfigError: naming each field, the value seen, and what is allowed.
    """
    try:
        return TypeAdapter(type(config)).validate_python(as_dict(config))
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(item) for item in error.errors())) from None


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved config by field, to be written beside a job's output."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _problem(item: Any) -> str:
    """One line of a validation error, in the words of the command line."""
    option = "--" + str(item["loc"][0]).replace("_", "-") if item["loc"] else "options"
    return f"{option} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
