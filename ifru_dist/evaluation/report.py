"""Reports of the jobs: ``report.json`` for programs and ``summary.md`` for people."""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ifru_dist.errors import ConfigError

REPORT_NAME = "report.json"
SUMMARY_NAME = "summary.md"


def write_report(folder: Path, report: Mapping[str, Any], summary: str) -> None:
    """Write both files into ``folder``, made if need be; a reader sees a whole file or the one before.

    The JSON has sorted keys, and null for every figure that is not finite, so equal reports are equal bytes.

    Raises:
        TypeError: the report holds something that JSON has no form for.
    """
    text = json.dumps(_plain(report), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / SUMMARY_NAME, summary.rstrip("\n") + "\n")
    _replace(folder / REPORT_NAME, text + "\n")


def unused_folder(folder: Path) -> Path:
    """Make a folder for one more report beside those that are there: ``folder``, or else ``folder-2`` and so on."""
    number = 1
    while True:
        chosen = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            chosen.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return chosen


def check_output(folder: Path | None, default: Path | None = None) -> None:
    """See that the folder of a report can be written, before a job does what it will report there.

    Args:
        folder: What ``--output`` asks for; it is made.
        default: Where the report goes without that; it is not made, since the job may yet be refused.

    Raises:
        ConfigError: it cannot.
    """
    chosen = folder or default
    if chosen is None:
        return
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=_nearest(chosen)):
            pass
    except OSError as error:
        seen = f"{folder}" if folder is not None else f"{folder}: {chosen}"
        raise ConfigError(f"--output = {seen}: {error.strerror}: give a folder that can be written") from error


def _nearest(folder: Path) -> Path:
    """A path itself, or the nearest one above it that there is."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def figure(value: float | None) -> str:
    """Four digits, or a dash where there is no figure."""
    return "-" if value is None else f"{value:.4f}"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows that share their keys, which become the header; empty without rows.

    Floats have four significant digits; what is None or not finite is shown as "-".
    """
    if not rows:
        return ""
    header = list(rows[0])
    lines = [header, ["---"] * len(header)] + [[_cell(row[key]) for key in header] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """A value as a table shows it."""
    value = _plain(value)
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _plain(value: Any) -> Any:
    """A value in the types of JSON; not finite figures become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    """Put a file in place of the one before, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
