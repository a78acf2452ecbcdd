"""L-BFGS ends where an independent dense gradient vanishes, says so where it does not, and repeats itself."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ifru_dist.errors import InputError, TrainingError
from ifru_dist.interactions import Interactions
from ifru_dist.models.base import dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.initial import initial_embeddings
from ifru_dist.models.negatives import Negatives
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.training.examples import TrainingExamples
from ifru_dist.training.loop import Fitted, TrainOptions, fit
from ifru_dist.training.objective import TrainingObjective
from ifru_dist.training.stationary import Descent, descend
from tests.training.reference import (
    DIM,
    EDGES,
    N_ROWS,
    N_USERS,
    Point,
    examples,
    model_id,
    reference_gradient,
    sizes,
)

SPECS = [
    ModelSpec(dim=DIM, l2_row=0.4, init_std=0.1),
    ModelSpec(dim=DIM, l2=0.05, init_std=0.1),
    ModelSpec(name="lightgcn", layers=2, dim=DIM, l2=0.01, l2_row=0.1, init_std=0.1),
    ModelSpec(name="biased-mf", dim=DIM, loss="squared", l2_row=0.4, init_std=0.1),
    ModelSpec(dim=DIM, loss="bpr", negatives=3, l2=0.01, l2_row=0.1, init_std=0.1),
    ModelSpec(name="fm", dim=DIM, fields=3, l2_row=0.4, init_std=0.1),
]
OPTIONS = TrainOptions(optimiser="lbfgs", epochs=500, gradient_tolerance=1e-5, seed=3)
each_model = pytest.mark.parametrize("spec", SPECS, ids=model_id)


def training_data(spec: ModelSpec = SPECS[0]) -> Interactions:
    rows, labels = examples(150, seed=1, spec=dataclasses.replace(spec, loss="bce"))
    return Interactions(rows.numpy(), labels.numpy().astype(np.float32))


VALID = training_data().take(np.arange(0, 150, 5))


def started(spec: ModelSpec, edges: np.ndarray = EDGES) -> tuple[TrainingObjective, TrainingExamples]:
    """The objective as ``fit`` starts from it, but for the graph."""
    model = build_model(spec)
    drawn = TrainingExamples(model, training_data(spec), sizes(spec), seed=3)
    embeddings = initial_embeddings(sum(sizes(spec)), model.width, spec.init_std, seed=3).double()
    dense = {name: values.double() for name, values in dense_parameters(model, seed=3).items()}
    return TrainingObjective(model, embeddings, dense, edges, len(drawn)), drawn


def run_descent(spec: ModelSpec, edges: np.ndarray = EDGES, **options: float) -> tuple[TrainingObjective, Descent]:
    objective, drawn = started(spec, edges)
    arguments = {"gradient_tolerance": 1e-5, "max_iterations": 500} | options
    return objective, descend(objective, drawn, report=lambda entry: None, **arguments)


def run(spec: ModelSpec = SPECS[0], valid: Interactions | None = VALID, show: bool = False, **options: float) -> Fitted:
    validation = auc_validation(valid) if valid is not None else None
    options = dataclasses.replace(OPTIONS, **options)
    return fit(spec, sizes(spec), training_data(spec), validation, options, show_progress=show)


def dense_objective(spec: ModelSpec, objective: TrainingObjective) -> tuple[float, torch.Tensor]:
    """The mean objective, and the 2-norm of the gradient of the summed one, by all parameters.

    With bpr each positive is one example, however many negatives it is compared with.
    """
    data = training_data(spec)
    rows, labels, n_examples = data.rows, data.labels, len(data)
    if spec.loss == "bpr":
        positives, ids = data.rows[data.labels == 1], np.flatnonzero(data.labels == 1)
        negatives = Negatives(positives, range(N_USERS, N_ROWS), seed=3)
        drawn = [negatives.draw(positives[:, 0], ids, number) for number in range(spec.negatives)]
        rows = np.concatenate([np.column_stack([positives, items]) for items in drawn])
        labels, n_examples = np.ones(len(rows)), len(positives)
    point = Point(objective.embeddings, objective.dense)
    value, gradients = reference_gradient(
        spec, point, torch.from_numpy(rows), torch.from_numpy(labels).double(), n_examples
    )
    return value, n_examples * torch.cat([part.reshape(-1) for part in gradients]).norm()


@each_model
def test_the_dense_gradient_vanishes_at_the_stationary_point(spec: ModelSpec) -> None:
    objective, descent = run_descent(spec)
    norm = dense_objective(spec, objective)[1].item()
    assert descent.stopped_by == "gradient"
    assert descent.converged
    assert descent.remedy == ""
    assert norm < 1.0001e-5
    assert descent.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert objective.embeddings.norm() > 1.0  # zero is a stationary point too, a saddle


@each_model
def test_the_history_leads_from_the_start_to_the_stationary_point(spec: ModelSpec) -> None:
    objective, descent = run_descent(spec)
    losses = [entry["loss"] for entry in descent.history]
    assert [entry["epoch"] for entry in descent.history] == list(range(1, len(losses) + 1))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(dense_objective(spec, objective)[0], rel=1e-12)
    norms = [entry["gradient_norm"] for entry in descent.history]
    assert norms[-1] == descent.gradient_norm <= 1e-5 < min(norms[:-1])
    assert len(losses) < descent.evaluations < 2 * len(losses)


@each_model
def test_two_runs_are_equal_bit_for_bit(spec: ModelSpec) -> None:
    first, second = run_descent(spec), run_descent(spec)
    assert all(map(torch.equal, first[0].parameters, second[0].parameters))
    assert first[1].gradient_norm == second[1].gradient_norm
    assert np.array_equal(run(spec).parameters.embeddings, run(spec).parameters.embeddings)


def test_two_runs_of_a_size_that_threads_share_are_equal_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    rows = np.stack([rng.integers(0, 3_000, 20_000), 3_000 + rng.zipf(1.3, 20_000) % 2_000], axis=1)
    data = Interactions(rows, (rng.random(20_000) < 0.5).astype(np.float32))
    spec, options = ModelSpec(dim=48, l2_row=1.0), dataclasses.replace(OPTIONS, epochs=5)
    first, second = (fit(spec, (3_000, 2_000), data, None, options, show_progress=False) for _ in range(2))
    assert np.array_equal(first.parameters.embeddings, second.parameters.embeddings)


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was() -> None:
    before, points = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            points.append(run_descent(SPECS[0])[0].embeddings)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*points)


@each_model
def test_fit_keeps_the_stationary_point_in_float32(spec: ModelSpec) -> None:
    data = training_data(spec)
    valid = data.take(np.arange(0, 150, 5))
    fitted = run(spec, valid)
    objective, descent = run_descent(spec, data.positives())
    assert fitted.parameters.embeddings.dtype == np.float32
    assert np.array_equal(fitted.parameters.embeddings, objective.embeddings.numpy().astype(np.float32))
    assert fitted.parameters.dense == {name: values.float().numpy() for name, values in objective.dense.items()}
    assert (fitted.converged, fitted.remedy, fitted.gradient_norm) == (True, "", descent.gradient_norm)
    assert fitted.stopped_by == "gradient"
    assert fitted.epochs_run == fitted.best_epoch == len(fitted.history) == len(descent.history)
    assert fitted.interactions_per_second > 0
    assert fitted.valid == roc_auc_score(valid.labels, objective.predictor().scores(valid.rows))


def test_row_decay_makes_embeddings_smaller() -> None:
    norms = [
        np.linalg.norm(run(dataclasses.replace(SPECS[0], l2_row=l2_row)).parameters.embeddings)
        for l2_row in (0.2, 0.4, 0.8)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[2] < 0.8 * norms[0]


def test_too_few_iterations_say_what_to_raise_and_keep_the_model() -> None:
    fitted = run(epochs=7)
    assert fitted.epochs_run == 7
    assert fitted.converged is False
    assert fitted.gradient_norm > 1e-5
    assert "raise --epochs" in fitted.remedy
    assert fitted.stopped_by == "epochs"
    objective, descent = run_descent(SPECS[0], max_iterations=7)
    assert descent.gradient_norm == pytest.approx(dense_objective(SPECS[0], objective)[1].item(), rel=1e-9)


def test_a_tolerance_below_float64_says_so() -> None:
    objective, descent = run_descent(SPECS[0], gradient_tolerance=1e-30, max_iterations=5_000)
    assert descent.stopped_by == "precision"
    assert not descent.converged
    assert "precision of float64" in descent.remedy
    assert "raise --gradient-tolerance above" in descent.remedy
    assert dense_objective(SPECS[0], objective)[1] < 1e-6


def test_no_validation_set_is_needed() -> None:
    fitted = run(valid=None)
    assert fitted.valid is None
    assert np.array_equal(fitted.parameters.embeddings, run().parameters.embeddings)


def test_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match="training set is empty"):
        fit(SPECS[0], sizes(SPECS[0]), training_data().take(np.arange(0)), None, OPTIONS, show_progress=False)


def test_an_objective_that_is_not_finite_names_a_remedy() -> None:
    with pytest.raises(TrainingError, match=r"not finite after 0 iterations.*use a smaller --init-std"):
        run(dataclasses.replace(SPECS[0], init_std=1e30, l2_row=1e300))


def test_progress_shows_the_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    fitted = run(epochs=60, gradient_tolerance=1e-13, show=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"iteration 50/60  loss {fitted.history[49]['loss']:.4f}  gradient ")
