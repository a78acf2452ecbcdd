"""Validation of the jobs' configs: frozen dataclasses whose fields carry pydantic constraints."""

from collections.abc import Sequence
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
        raise ConfigError("; ".join(_problems(error.errors()))) from None


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved config by field, to be written beside a job's output."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _problems(items: Sequence[Any]) -> list[str]:
    """One line for each option of a validation error, in the words of the command line."""
    by_option: dict[str, list[Any]] = {}
    for item in items:
        by_option.setdefault(str(item["loc"][0]) if item["loc"] else "", []).append(item)
    return [_problem(name, found) for name, found in by_option.items()]


def _problem(name: str, items: Sequence[Any]) -> str:
    """What is wrong with one option: the ways in which it would have been right, joined by "or"."""
    # What a tuple lacks because its elements were refused is no problem of its own.
    named = [item for item in items if item["type"] != "too_short"] or items
    messages = dict.fromkeys(f"{item['msg'][0].lower()}{item['msg'][1:]}" for item in named)
    option = "--" + name.replace("_", "-") if name else "options"
    return f"{option} = {named[0]['input']!r}: {', or '.join(messages)}"
