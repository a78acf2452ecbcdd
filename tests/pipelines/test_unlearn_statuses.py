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
from ifru_dist.sharding.solo import SoloWorker
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


ANYWHERE: dict[Status, Ending] = {
    "converged": Ending(options={"damping": 5.0}),
    "max_iterations": Ending(options={"newton_steps": 1, "max_iterations": 1, "solver_tolerance": 1e-9}),
    "max_newton_steps": Ending(options={"max_newton_steps": 1}),
    "no_contraction": Ending(options={"damping": 0.05}),
}
COMMITTED: dict[str, dict[Status, Ending]] = {
    "mf": {
        **ANYWHERE,
        "under_resolution": Ending(embeddings=learned_by_heart(), l2=0.0, batch=[whole_user(LONER)]),
    },
    "lightgcn": ANYWHERE,
}
UNDAMPED = {"damping": 0.0, "newton_steps": 2}
REFUSED: dict[str, dict[Status, Ending]] = {
    "mf": {
        "not_positive_definite": Ending(
            embeddings=without_curvature(), l2=0.0, batch=[pair(ROWS[ONCE])], options={"damping": 0.0}
        ),
        "no_descent": Ending(embeddings=5.5 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options={"damping": 0.0}),
        "diverged": Ending(
            embeddings=3 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options={"damping": 1e-8, "curvature": "hessian"}
        ),
    },
    "lightgcn": {
        "not_positive_definite": Ending(embeddings=12 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options=UNDAMPED),
        "no_descent": Ending(
            embeddings=20 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options=UNDAMPED | {"curvature": "hessian"}
        ),
        "diverged": Ending(embeddings=0.3 * RANDOM, l2=0.0, batch=[pair(ROWS[50])], options=UNDAMPED),
    },
}


def each(endings: dict[str, dict[Status, Ending]]) -> pytest.MarkDecorator:
    """Every model with every status it can be brought to."""
    return pytest.mark.parametrize(
        ("model", "status"), [(model, status) for model, statuses in endings.items() for status in statuses]
    )


ELSEWHERE: set[Status] = {"stalled", "not_finite"}
"""No batch is known to stall on every machine; models that are not finite have a test of their own below."""


def test_every_status_but_stalled_is_tried_by_a_batch_that_ends_so() -> None:
    assert set(COMMITTED["mf"]) == set(USABLE) - ELSEWHERE
    assert set(COMMITTED["lightgcn"]) == set(USABLE) - ELSEWHERE - {"under_resolution"}
    assert set(REFUSED["mf"]) == set(REFUSED["lightgcn"]) == set(REMEDIES) - set(USABLE) - ELSEWHERE


@each(COMMITTED)
def test_a_usable_end_is_committed_with_its_remedy(
    tmp_path: Path, model: str, status: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = COMMITTED[model][status]
    before = small_workspace(tmp_path / "ws", name=model, embeddings=ending.embeddings, l2=ending.l2)
    after = run(tmp_path / "ws", *ending.batch, precision="double", **ending.options)
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


def test_the_status_stalled_put_on_an_update_that_converged_is_committed_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the job makes of the status, and no more: that a descent ends with it is not tried here."""
    small_workspace(tmp_path / "ws")
    spoil(monkeypatch, status="stalled")
    assert run(tmp_path / "ws", *BATCH).manifest.version == 3
    solver = report_of(tmp_path / "ws", "unlearn-000003")["solver"]
    assert (solver["status"], solver["remedy"]) == ("stalled", REMEDIES["stalled"])
    assert f"note: {REMEDIES['stalled']}\n" in capsys.readouterr().out


@each(REFUSED)
def test_an_end_without_an_update_makes_no_version(tmp_path: Path, model: str, status: Status) -> None:
    ending = REFUSED[model][status]
    small_workspace(tmp_path / "ws", name=model, embeddings=ending.embeddings, l2=ending.l2)
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


def test_the_report_counts_steps_that_were_kept_and_all_linear_solves(tmp_path: Path) -> None:
    """Far from a minimum some steps are solved again, in a smaller trust region."""
    small_workspace(tmp_path / "ws", name="lightgcn", embeddings=3 * RANDOM, l2=0.0)
    run(tmp_path / "ws", pair(ROWS[50]), damping=0.05, curvature="hessian", max_newton_steps=2)
    solver = report_of(tmp_path / "ws", "unlearn-000003")["solver"]
    assert (solver["status"], solver["newton_steps"]) == ("max_newton_steps", 2)
    assert len(solver["iterations"]) > 2


def test_solver_failures_have_an_exit_status_of_their_own() -> None:
    assert SolveError.exit_code == 6


def spoil(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the worker's outcome differ in some fields."""
    call = SoloWorker.call

    def spoiled(worker: SoloWorker, method: str, *arguments: Any) -> list[Any]:
        results = call(worker, method, *arguments)
        return [dataclasses.replace(outcome, **changes) for outcome in results] if method == "solve" else results

    monkeypatch.setattr(SoloWorker, "call", spoiled)
