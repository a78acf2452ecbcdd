"""What a part of a measurement consists of: cases, each with what it measures and the criteria that judge it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.criteria import Criterion, Figure, Run
from benchmarks.protocol import Protocol
from benchmarks.trial import Setting

CaseRuns = Mapping[str, Mapping[str, Run]]
"""Runs by case and seed."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of run, repeated for each seed."""

    name: str
    protocol: Protocol
    measure: Callable[[Setting], dict[str, Any]]
    """Runs the jobs; returns their kept reports by name."""
    criteria: tuple[Criterion, ...] = ()
    figures: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    """Further figures: rows of a table, each with some of its columns."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that may be asked for by name."""

    title: str
    cases: tuple[Case, ...]
    references: int = 3
    """Retrained models unless the command line says otherwise."""
    plot: Callable[[CaseRuns, Path], None] | None = None
    """Draws the runs into a PNG file."""
