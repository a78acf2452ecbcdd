"""What all jobs do at their edge: parse the command line, run one pipeline, end with a readable line and a status."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro

from ifru_dist.config import validated
from ifru_dist.errors import IfruError

ConfigT = TypeVar("ConfigT")

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run_command(config_class: type[ConfigT], pipeline: Callable[[ConfigT], int | None]) -> NoReturn:
    """Run a pipeline with the config that the command line gives, and exit.

    The exit status is the pipeline's (None: 0), or that of the IfruError which ended it, told in one line on stderr.
    Other exceptions are defects: they show a traceback, and the status is 1.
    """
    try:
        status = pipeline(validated(_parsed(config_class)))
    except IfruError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission: nothing that a traceback would explain better
        print(f"error: {error.strerror or error}: {error.filename or 'no file named'}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        _flush()
    sys.exit(0 if status is None else status)


def _parsed(config_class: type[ConfigT]) -> ConfigT:
    """The config that the command line gives."""
    try:
        return tyro.cli(config_class)
    except BrokenPipeError:  # a help text that was read in part
        sys.exit(0)


def _flush() -> None:
    """Write out what is left to print; where its reader is gone, as with ``| head``, drop it without a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # what is still buffered would fail again, with a message, as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
