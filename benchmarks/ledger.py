"""The dated file of a measurement: runs by part, case and seed, the command that made each, and how they are judged."""

import json
import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.criteria import Judged, Run, figures_table, judge
from benchmarks.parts import Case, Part
from ifru_dist.evaluation.report import markdown_table


class RunLedger:
    """Runs that were measured, on disk after every one of them."""

    def __init__(self, path: Path, parts: Mapping[Any, Part]) -> None:
        """Read what the file holds already."""
        self.path, self._parts = path, parts
        self._entries: dict[str, dict[str, dict[str, Any]]] = {}
        if path.is_file():
            self._entries = json.loads(path.read_text())["runs"]

    def holds(self, part: str, case: str, seed: int, references: int) -> bool:
        """Whether a run was measured, with so many references."""
        entry = self._entries.get(part, {}).get(case, {}).get(str(seed))
        return entry is not None and entry["references"] == references

    def add(self, part: str, case: str, seed: int, references: int, command: str, reports: dict[str, Any]) -> None:
        """Keep a run in the place of an earlier one of its seed, and write the file anew."""
        entry = {"command": command, "references": references, "reports": reports}
        self._entries.setdefault(part, {}).setdefault(case, {})[str(seed)] = entry
        self._write([])  # before it is judged: nothing that was measured is lost where that fails
        self._write(self._points())

    def runs(self, part: str, case: str) -> dict[str, Run]:
        """The reports of a case by seed, ascending."""
        entries = self._entries.get(part, {}).get(case, {})
        return {seed: entries[seed]["reports"] for seed in sorted(entries, key=int)}

    def judged(self, part: str) -> dict[str, list[Judged]]:
        """Every criterion of a part by case, for the cases that were measured."""
        measured = self._measured(part)
        return {case.name: [judge(each, self.runs(part, case.name)) for each in case.criteria] for case in measured}

    def tables(self, part: str) -> str:
        """Markdown: the criteria, then the further figures as mean ± deviation over the seeds."""
        points = [{"case": case, **point.as_row()} for case, judged in self.judged(part).items() for point in judged]
        rows = [
            {"case": case.name, **row}
            for case in self._measured(part)
            for row in figures_table(case.figures, self.runs(part, case.name))
        ]
        shown = [f"### {self._parts[part].title}", markdown_table(points), markdown_table(rows)]
        return "\n\n".join(text for text in shown if text)

    def plot(self, part: str) -> None:
        """Draw a part that has a plot, beside the file."""
        if (draw := self._parts[part].plot) is not None:
            runs = {case.name: self.runs(part, case.name) for case in self._measured(part)}
            draw(runs, self.path.with_name(f"{self.path.stem}-{part}.png"))

    def _measured(self, part: str) -> list[Case]:
        """The cases of a part that have runs."""
        return [case for case in self._parts[part].cases if self.runs(part, case.name)]

    def _points(self) -> list[dict[str, Any]]:
        """Every criterion of every part that was measured, as JSON keeps it."""
        return [
            {"part": part, "case": case, **point.as_record()}
            for part in self._entries
            if part in self._parts
            for case, judged in self.judged(part).items()
            for point in judged
        ]

    def _write(self, points: list[dict[str, Any]]) -> None:
        """Write the file whole or not at all."""
        record = {"date": date.today().isoformat(), "points": points, "runs": self._entries}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        aside.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        aside.replace(self.path)
