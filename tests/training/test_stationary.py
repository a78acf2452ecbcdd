"""L-BFGS ends where an independent dense gradient vanishes, says so where it does not, and repeats itself."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ifru_dist.errors import InputError, TrainingError
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.initial import initial_embeddings
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.loop import Fitted, TrainOptions, fit
from ifru_dist.training.objective import TrainingObjective
from ifru_dist.training.stationary import Descent, descend
from tests.training.reference import DIM, EDGES, N_ROWS, examples, model_id, reference_gradient

SPECS = [
    ModelSpec(dim=DIM, l2_row=0.4, init_std=0.1),
    ModelSpec(dim=DIM, l2=0.05, init_std=0.1),
    ModelSpec(name="lightgcn", layers=2, dim=DIM, l2=0.01, l2_row=0.1, init_std=0.1),
]
OPTIONS = TrainOptions(optimiser="lbfgs", epochs=500, gradient_tolerance=1e-5, seed=3)
ROWS, LABELS = examples(150, seed=1)
TRAIN = Interactions(ROWS.numpy(), LABELS.numpy().astype(np.float32))
VALID = TRAIN.take(np.arange(0, 150, 5))
each_model = pytest.mark.parametrize("spec", SPECS, ids=model_id)


def run_descent(spec: ModelSpec, **options: float) -> tuple[torch.Tensor, Descent]:
    embeddings = initial_embeddings(N_ROWS, DIM, spec.init_std, seed=3).double()
    objective = TrainingObjective(build_model(spec), embeddings, EDGES, len(TRAIN))
    arguments = {"gradient_tolerance": 1e-5, "max_iterations": 500} | options
    return embeddings, descend(objective, TRAIN, report=lambda entry: None, **arguments)


def run(spec: ModelSpec = SPECS[0], valid: Interactions = VALID, show: bool = False, **options: float) -> Fitted:
    return fit(spec, N_ROWS, TRAIN, valid, dataclasses.replace(OPTIONS, **options), show_progress=show)


def dense_gradient_norm(spec: ModelSpec, embeddings: torch.Tensor) -> float:
    """2-norm of the gradient of the summed objective."""
    return len(ROWS) * reference_gradient(spec, embeddings, ROWS, LABELS, len(ROWS))[1].norm().item()


@each_model
def test_the_dense_gradient_vanishes_at_the_stationary_point(spec: ModelSpec) -> None:
    embeddings, descent = run_descent(spec)
    assert descent.converged
    assert descent.remedy == ""
    assert dense_gradient_norm(spec, embeddings) < 1.0001e-5
    assert descent.gradient_norm == pytest.approx(dense_gradient_norm(spec, embeddings), rel=1e-4)
    assert embeddings.norm() > 1.0  # zero is a stationary point too, a saddle


@each_model
def test_the_history_leads_from_the_start_to_the_stationary_point(spec: ModelSpec) -> None:
    embeddings, descent = run_descent(spec)
    losses = [entry["loss"] for entry in descent.history]
    assert [entry["epoch"] for entry in descent.history] == list(range(1, len(losses) + 1))
    assert losses == sorted(losses, reverse=True)
    expected, _ = reference_gradient(spec, embeddings, ROWS, LABELS, len(ROWS))
    assert losses[-1] == pytest.approx(expected, rel=1e-12)
    norms = [entry["gradient_norm"] for entry in descent.history]
    assert norms[-1] == descent.gradient_norm <= 1e-5 < min(norms[:-1])
    assert len(losses) < descent.evaluations < 2 * len(losses)


@each_model
def test_two_runs_are_equal_bit_for_bit(spec: ModelSpec) -> None:
    first, second = run_descent(spec), run_descent(spec)
    assert torch.equal(first[0], second[0])
    assert first[1].gradient_norm == second[1].gradient_norm
    assert np.array_equal(run(spec).embeddings, run(spec).embeddings)


def test_two_runs_of_a_size_that_threads_share_are_equal_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    rows = np.stack([rng.integers(0, 3_000, 20_000), 3_000 + rng.zipf(1.3, 20_000) % 2_000], axis=1)
    data = Interactions(rows, (rng.random(20_000) < 0.5).astype(np.float32))
    spec, options = ModelSpec(dim=48, l2_row=1.0), dataclasses.replace(OPTIONS, epochs=5)
    first, second = (fit(spec, 5_000, data, data, options, show_progress=False) for _ in range(2))
    assert np.array_equal(first.embeddings, second.embeddings)


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was() -> None:
    before, points = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            points.append(run_descent(SPECS[0])[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*points)


@each_model
def test_fit_keeps_the_stationary_point_in_float32(spec: ModelSpec) -> None:
    fitted = run(spec)
    embeddings, descent = run_descent_on_positives(spec)
    assert fitted.embeddings.dtype == np.float32
    assert np.array_equal(fitted.embeddings, embeddings.numpy().astype(np.float32))
    assert (fitted.converged, fitted.remedy, fitted.gradient_norm) == (True, "", descent.gradient_norm)
    assert fitted.epochs_run == fitted.best_epoch == len(fitted.history) == len(descent.history)
    assert fitted.interactions_per_second > 0
    objective = TrainingObjective(build_model(spec), embeddings, TRAIN.positives(), len(TRAIN))
    assert fitted.valid_auc == roc_auc_score(VALID.labels, objective.scores(VALID.rows))


def run_descent_on_positives(spec: ModelSpec) -> tuple[torch.Tensor, Descent]:
    """As ``fit`` does it: the graph is that of the training positives."""
    embeddings = initial_embeddings(N_ROWS, DIM, spec.init_std, seed=3).double()
    objective = TrainingObjective(build_model(spec), embeddings, TRAIN.positives(), len(TRAIN))
    descent = descend(objective, TRAIN, gradient_tolerance=1e-5, max_iterations=500, report=lambda entry: None)
    return embeddings, descent


def test_row_decay_makes_embeddings_smaller() -> None:
    norms = [np.linalg.norm(run(dataclasses.replace(SPECS[0], l2_row=l2_row)).embeddings) for l2_row in (0.2, 0.4, 0.8)]
    assert norms == sorted(norms, reverse=True)
    assert norms[2] < 0.8 * norms[0]


def test_too_few_iterations_say_what_to_raise_and_keep_the_model() -> None:
    fitted = run(epochs=7)
    assert fitted.epochs_run == 7
    assert fitted.converged is False
    assert fitted.gradient_norm > 1e-5
    assert "raise --epochs" in fitted.remedy
    embeddings, descent = run_descent(SPECS[0], max_iterations=7)
    assert descent.gradient_norm == pytest.approx(dense_gradient_norm(SPECS[0], embeddings), rel=1e-9)


def test_a_tolerance_below_float64_says_so() -> None:
    embeddings, descent = run_descent(SPECS[0], gradient_tolerance=1e-30, max_iterations=5_000)
    assert not descent.converged
    assert "precision of float64" in descent.remedy
    assert "raise --gradient-tolerance above" in descent.remedy
    assert dense_gradient_norm(SPECS[0], embeddings) < 1e-6


def test_no_validation_set_is_needed() -> None:
    nothing, one_class = TRAIN.take(np.arange(0)), VALID.take(VALID.labels == 1)
    for valid in (nothing, one_class):
        fitted = run(valid=valid)
        assert fitted.valid_auc is None
        assert np.array_equal(fitted.embeddings, run().embeddings)


def test_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match="training set is empty"):
        fit(SPECS[0], N_ROWS, TRAIN.take(np.arange(0)), VALID, OPTIONS, show_progress=False)


def test_an_objective_that_is_not_finite_names_a_remedy() -> None:
    with pytest.raises(TrainingError, match=r"not finite after 0 iterations.*use a smaller --init-std"):
        run(dataclasses.replace(SPECS[0], init_std=1e30, l2_row=1e300))


def test_progress_shows_the_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    fitted = run(epochs=60, gradient_tolerance=1e-13, show=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"iteration 50/60  loss {fitted.history[49]['loss']:.4f}  gradient ")
