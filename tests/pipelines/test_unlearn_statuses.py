"""How a solve may end: what is usable is committed with its remedy, what is not changes no byte."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifru_dist.errors import SolveError
from ifru_dist.influence.options import REMEDIES, USABLE, Status
from ifru_dist.influence.update import Outcome
from ifru_dist.pipelines import unlearn as pipeline
from tests.influence import reference
from tests.pipelines.batches import BATCH, MODELS, ROWS, dense_case, refuse, report_of, run
from tests.pipelines.small import LONER, SIZES, pair, small_workspace, whole_user

RANDOM = np.random.default_rng(8).normal(size=(sum(SIZES), 4))
ONCE = next(example for example, rows in enumerate(ROWS) if (rows == ROWS).all(axis=1).sum() == 1)
"""An example whose pair occurs once."""


def learned_by_heart() -> np.ndarray:
    """Embeddings that give LONER's one example a gradient far under the resolution of its item's embedding.

    Only the item's last value, a zero, can take up a step of 1e-5. That value takes part in the step merely to
    compensate for the others, the kept users being orthogonal to the item, so alone it goes uphill.
    """
    embeddings = RANDOM.copy()
    embeddings[:LONER, :3] -= embeddings[:LONER, :3].mean(axis=1, keepdims=True)
    embeddings[LONER] = [1.004, -0.996, 0.004, 0.0]
    embeddings[SIZES[0]] = [1024.0, 1024.0, 1024.0, 0.0]
    return embeddings


def without_curvature() -> np.ndarray:
    """Embeddings that are zero at the far ends of all other examples of ONCE's user and item."""
    embeddings, others = RANDOM.copy(), np.delete(ROWS, ONCE, axis=0)
    for end in (0, 1):
        embeddings[others[others[:, end] == ROWS[ONCE, end], 1 - end]] = 0.0
    return embeddings


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A batch that ends with some status."""

    embeddings: np.ndarray = field(default_factory=lambda: RANDOM)
    l2: float = 0.02
    batch: list[dict[str, Any]] = field(default_factory=lambda: BATCH)
    options: dict[str, Any] = field(default_factory=dict)


COMMITTED: dict[Status, Ending] = {
    "converged": Ending(options={"damping": 5.0}),
    "max_iterations": Ending(options={"newton_steps": 1, "max_iterations": 1, "solver_tolerance": 1e-9}),
    "max_newton_steps": Ending(options={"max_newton_steps": 1}),
    "no_contraction": Ending(options={"damping": 0.05}),
    "under_resolution": Ending(embeddings=learned_by_heart(), l2=0.0, batch=[whole_user(LONER)]),
}
REFUSED: dict[Status, Ending] = {
    "not_positive_definite": Ending(
        embeddings=without_curvature(), l2=0.0, batch=[pair(ROWS[ONCE])], options={"damping": 0.0}
    ),
    "no_descent": Ending(embeddings=5.5 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options={"damping": 0.0}),
    "diverged": Ending(
        embeddings=3 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options={"damping": 1e-8, "curvature": "hessian"}
    ),
}


def test_every_status_is_tried() -> None:
    assert {*COMMITTED, "stalled"} == set(USABLE)
    assert {*REFUSED, "not_finite"} == set(REMEDIES) - set(USABLE)


@pytest.mark.parametrize("status", COMMITTED)
def test_a_usable_end_is_committed_with_its_remedy(
    tmp_path: Path, status: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = COMMITTED[status]
    before = small_workspace(tmp_path / "ws", embeddings=ending.embeddings, l2=ending.l2)
    after = run(tmp_path / "ws", *ending.batch, **ending.options)
    assert after.manifest.version == 3
    solver = report_of(tmp_path / "ws", "unlearn-000003")["solver"]
    assert (solver["status"], solver["remedy"]) == (status, REMEDIES[status])
    printed = capsys.readouterr().out
    assert f"solver: {status}, " in printed
    notes = [line for line in printed.splitlines() if line.startswith("note: ") and "did not fall" not in line]
    assert notes == ([f"note: {solver['remedy']}"] if solver["remedy"] else [])
    case = dense_case(before, after.erased_ids())
    _, emptied = reference.endpoint_masks(case)
    stored = torch.where(emptied[:, None], case.embeddings, torch.from_numpy(after.embeddings()).double())
    change = float(reference.tilted(case, stored, ending.options.get("damping", 0.4)))
    assert solver["objective_change"] == pytest.approx(change, rel=1e-9, abs=1e-12)
    assert torch.equal(stored, case.embeddings) == (status == "under_resolution")
    assert (solver["objective_change"] < 0) == (status != "under_resolution")


def test_a_stalled_descent_is_committed_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the arithmetic of one machine or another stalls, so the status is put on a real update."""
    small_workspace(tmp_path / "ws")
    spoil(monkeypatch, status="stalled")
    assert run(tmp_path / "ws", *BATCH).manifest.version == 3
    solver = report_of(tmp_path / "ws", "unlearn-000003")["solver"]
    assert (solver["status"], solver["remedy"]) == ("stalled", REMEDIES["stalled"])
    assert f"note: {REMEDIES['stalled']}\n" in capsys.readouterr().out


@pytest.mark.parametrize("status", REFUSED)
def test_an_end_without_an_update_makes_no_version(tmp_path: Path, status: Status) -> None:
    ending = REFUSED[status]
    small_workspace(tmp_path / "ws", embeddings=ending.embeddings, l2=ending.l2)
    expected = f"the solver ended with {status}: {REMEDIES[status]}; nothing was committed"
    refuse(tmp_path / "ws", ending.batch, SolveError, expected, "raise --damping", **ending.options)


@MODELS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_makes_no_version(tmp_path: Path, model: str, value: float) -> None:
    embeddings = RANDOM.copy()
    embeddings[ROWS[0, 1], 2] = value
    small_workspace(tmp_path / "ws", name=model, embeddings=embeddings)
    expected = f"the solver ended with not_finite: {REMEDIES['not_finite']}; nothing was committed"
    refuse(tmp_path / "ws", [pair(ROWS[0])], SolveError, expected)


@pytest.mark.parametrize(
    "values",
    [torch.tensor([[0.0, 1.0, np.nan, 0.0]]), torch.tensor([[0.0, 1.0, 1e300, 0.0]], dtype=torch.float64)],
    ids=["nan", "overflow"],
)
def test_values_that_are_not_finite_make_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: torch.Tensor
) -> None:
    small_workspace(tmp_path / "ws")
    spoil(monkeypatch, rows=torch.tensor([int(ROWS[50, 0])]), values=values)
    refuse(tmp_path / "ws", [pair(ROWS[50])], SolveError, "the update is not finite", "nothing was committed")


def test_solver_failures_have_an_exit_status_of_their_own() -> None:
    assert SolveError.exit_code == 6


def spoil(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the worker's outcome differ in some fields."""
    run_on_workers = pipeline.run_on_workers

    def spoiled(*arguments: Any) -> tuple[Any, list[Outcome]]:
        routed, (outcome,) = run_on_workers(*arguments)
        return routed, [dataclasses.replace(outcome, **changes)]

    monkeypatch.setattr(pipeline, "run_on_workers", spoiled)
