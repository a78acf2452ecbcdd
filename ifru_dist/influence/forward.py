"""Forward-mode derivatives, one at a time: torch counts their levels per process, not per thread."""

import threading
from collections.abc import Callable
from typing import Any

import torch

_LEVEL = threading.Lock()


def derivative_along(function: Callable[..., Any], place: tuple[Any, ...], change: tuple[Any, ...]) -> Any:
    """The derivative of a function's value at a place along a change of its arguments, in the value's structure."""
    with _LEVEL:
        return torch.func.jvp(function, place, change)[1]
