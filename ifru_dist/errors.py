"""The errors that a user may see: each says what is wrong, the value seen, and the remedy.

Every class takes one finished message, so an instance survives pickling between processes.
"""

import re

_LONGEST_REASON = 200
"""Characters that are kept of what a library says."""


class IfruError(Exception):
    """Base of all errors that are reported as one line; ``exit_code`` is the job's exit status."""

    exit_code = 1


class ConfigError(IfruError):
    """An option of a job has a value that cannot work."""

    exit_code = 2


class InputError(IfruError):
    """Logs, requests or imported embeddings cannot be used as they are."""

    exit_code = 3


class WorkspaceError(IfruError):
    """A workspace is missing, damaged, or not in the state that the job needs."""

    exit_code = 4


class WorkspaceBusyError(WorkspaceError):
    """Another job holds the workspace."""


class VersionConflictError(WorkspaceError):
    """Another writer committed the version that this job wanted to commit."""


class GuardError(IfruError):
    """A batch would erase more than the guards allow; nothing was done."""

    exit_code = 5


class SolveError(IfruError):
    """The solver ended without an update that may be committed."""

    exit_code = 6


class GangError(IfruError):
    """The gang of shard actors could not be started, or failed more often than allowed."""

    exit_code = 7


class TrainingError(IfruError):
    """Training diverged; there is no model that may be kept."""

    exit_code = 8


def reason_of(error: BaseException) -> str:
    """What a library says of an error, in one line, without the values of the data: they may be ids of people.

    Arrow quotes the text of a row or of a cell that it cannot read, and integers that are out of range.
    """
    if isinstance(error, UnicodeError):
        return "text that is no valid Unicode"
    text = " ".join(str(error).split())
    text = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", text)
    text = re.sub(r"(?<![Cc]olumn )(['\"]).*\1", "'...'", text)
    text = re.sub(r"\b([Vv]alue:?) \S+", r"\1 ...", text)
    return text[:_LONGEST_REASON] or type(error).__name__
