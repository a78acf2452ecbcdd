import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError, InputError, TrainingError
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.propagation import Propagation
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.validating import auc_validation
from ifru_dist.training.loop import Fitted, TrainOptions, fit

SIZES = N_USERS, N_ITEMS = 60, 41
N_ROWS = sum(SIZES)
OPTIONS = TrainOptions(epochs=12, patience=3, batch_size=128, learning_rate=0.02, seed=3)
SPECS = [ModelSpec(dim=6, init_std=0.1), ModelSpec(name="lightgcn", dim=6, init_std=0.1, l2=1e-4)]
each_model = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def planted(n: int, seed: int) -> Interactions:
    """Pairs whose label is the sign of a planted dot product."""
    factors = np.random.default_rng(0).normal(size=(N_ROWS, 3))
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(0, N_USERS, n), rng.integers(N_USERS, N_ROWS, n)], axis=1)
    scores = (factors[rows[:, 0]] * factors[rows[:, 1]]).sum(axis=1)
    return Interactions(rows, (scores > 0).astype(np.float32))


def run(spec: ModelSpec = SPECS[0], options: TrainOptions = OPTIONS, **data: Interactions) -> Fitted:
    train, valid = data.get("train", planted(1_003, seed=1)), data.get("valid", planted(301, seed=2))
    return fit(spec, SIZES, train, auc_validation(valid), options, show_progress=False)


@each_model
def test_learns_what_was_planted(spec: ModelSpec) -> None:
    fitted = run(spec)
    assert fitted.parameters.embeddings.shape == (N_ROWS, 6)
    assert fitted.parameters.embeddings.dtype == np.float32
    assert fitted.valid > 0.75
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


@each_model
def test_two_runs_are_equal_bit_for_bit(spec: ModelSpec) -> None:
    first, second = run(spec), run(spec)
    assert np.array_equal(first.parameters.embeddings, second.parameters.embeddings)
    assert [entry["loss"] for entry in first.history] == [entry["loss"] for entry in second.history]
    assert [entry["valid_auc"] for entry in first.history] == [entry["valid_auc"] for entry in second.history]


@each_model
def test_two_runs_of_a_size_that_threads_share_are_equal_bit_for_bit(spec: ModelSpec) -> None:
    rng = np.random.default_rng(1)
    rows = np.stack([rng.integers(0, 3_000, 20_000), 3_000 + rng.zipf(1.3, 20_000) % 2_000], axis=1)
    data = Interactions(rows, (rng.random(20_000) < 0.5).astype(np.float32))
    spec, options = dataclasses.replace(spec, dim=48), TrainOptions(epochs=2)
    validation, sizes = auc_validation(data), (3_000, 2_000)
    first, second = (fit(spec, sizes, data, validation, options, show_progress=False) for _ in range(2))
    assert np.array_equal(first.parameters.embeddings, second.parameters.embeddings)


def test_the_seed_decides() -> None:
    first, other = run(), run(options=dataclasses.replace(OPTIONS, seed=4))
    assert not np.array_equal(first.parameters.embeddings, other.parameters.embeddings)


def test_the_last_partial_batch_counts() -> None:
    options = dataclasses.replace(OPTIONS, epochs=1, batch_size=1_000)
    train = planted(1_003, seed=1)
    whole = run(options=options, train=train)
    shuffled = torch.randperm(1_003, generator=torch.Generator().manual_seed(options.seed)).numpy()
    without_rest = run(options=options, train=train.take(np.sort(shuffled[:1_000])))
    assert not np.allclose(whole.parameters.embeddings, without_rest.parameters.embeddings, atol=1e-6)


@each_model
def test_the_best_epoch_is_what_is_returned(spec: ModelSpec) -> None:
    options = dataclasses.replace(OPTIONS, epochs=60, learning_rate=0.1)
    fitted = run(spec, options)
    aucs = [entry["valid_auc"] for entry in fitted.history]
    assert fitted.epochs_run == len(aucs) < 60
    assert fitted.best_epoch == 1 + int(np.argmax(aucs))
    assert fitted.epochs_run == fitted.best_epoch + options.patience
    assert fitted.valid == max(aucs)
    train, valid = planted(1_003, seed=1), planted(301, seed=2)
    model = build_model(spec)
    propagation = Propagation(train.positives(), N_ROWS, model.layer_weights, torch.float32)
    scores = model.score(
        propagation.apply(torch.from_numpy(fitted.parameters.embeddings))[torch.from_numpy(valid.rows)], {}
    )
    assert roc_auc_score(valid.labels, scores.numpy()) == fitted.valid


def test_stops_at_the_last_epoch_without_waiting_for_patience() -> None:
    fitted = run(options=dataclasses.replace(OPTIONS, epochs=2))
    assert [entry["epoch"] for entry in fitted.history] == [1, 2]


def test_speed_leaves_validation_out() -> None:
    fitted = run()
    training_seconds = sum(entry["seconds"] for entry in fitted.history)
    assert training_seconds < fitted.seconds
    assert fitted.interactions_per_second == pytest.approx(1_003 * fitted.epochs_run / training_seconds)


def test_l2_keeps_embeddings_small() -> None:
    free, held = run(), run(dataclasses.replace(SPECS[0], l2=0.5))
    assert np.square(held.parameters.embeddings).sum() < 0.5 * np.square(free.parameters.embeddings).sum()


def test_read_only_data_will_do() -> None:
    train = planted(1_003, seed=1)
    train.rows.setflags(write=False)
    train.labels.setflags(write=False)
    assert np.array_equal(run(train=train).parameters.embeddings, run().parameters.embeddings)


def test_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match=r"training set is empty.*--k-core"):
        run(train=planted(0, seed=1))


def test_without_validation_all_epochs_are_run_and_the_last_is_kept() -> None:
    options = dataclasses.replace(OPTIONS, epochs=40, learning_rate=0.1)
    stopped = run(options=options)
    assert stopped.stopped_by == "valid_auc"
    options = dataclasses.replace(options, epochs=stopped.epochs_run)
    alone = run(valid=planted(0, seed=2), options=options)
    assert alone.stopped_by == "epochs"
    assert (alone.valid, alone.best_epoch, alone.epochs_run) == (None, options.epochs, options.epochs)
    assert [set(entry) for entry in alone.history] == [{"epoch", "loss", "seconds"}] * options.epochs
    assert not np.array_equal(alone.parameters.embeddings, stopped.parameters.embeddings)
    as_long = run(valid=planted(0, seed=2), options=dataclasses.replace(options, epochs=stopped.best_epoch))
    assert np.array_equal(as_long.parameters.embeddings, stopped.parameters.embeddings)


def test_a_loss_that_is_not_finite_names_the_epoch_and_a_remedy() -> None:
    remedy = r"use a smaller --learning-rate than 0.02, or a smaller --init-std or --l2"
    with pytest.raises(TrainingError, match=f"the training loss is not finite in epoch 1; {remedy}"):
        run(dataclasses.replace(SPECS[0], init_std=1e30))


def test_scores_that_are_not_finite_are_found_before_the_next_loss() -> None:
    one_step_per_epoch = dataclasses.replace(OPTIONS, learning_rate=1e30, batch_size=2_000)
    with pytest.raises(TrainingError, match=r"a validation score is not finite in epoch 1; .* than 1e\+30"):
        run(options=one_step_per_epoch)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("patience", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("seed", -1),
        ("optimiser", "sgd"),
        ("gradient_tolerance", 0.0),
    ],
)
def test_options_that_cannot_work_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", "-")):
        validated(dataclasses.replace(TrainOptions(), **{field: value}))


@each_model
def test_training_goes_on_from_a_model_that_is_given_and_leaves_that_as_it_is(spec: ModelSpec) -> None:
    first = run(spec).parameters
    before = first.embeddings.copy()
    one_epoch = dataclasses.replace(OPTIONS, epochs=1)
    data = {"sizes": SIZES, "train": planted(1_003, seed=1), "validation": None}
    on = fit(spec, options=one_epoch, initial=first, show_progress=False, **data)
    anew = fit(spec, options=one_epoch, show_progress=False, **data)
    assert np.array_equal(first.embeddings, before)
    assert on.epochs_run == 1
    assert on.history[0]["loss"] < 0.7 * anew.history[0]["loss"]
    largest_step = 1_003 // OPTIONS.batch_size + 1  # Adam's steps are about the learning rate long at most
    assert 0 < np.abs(on.parameters.embeddings - before).max() < 3 * largest_step * OPTIONS.learning_rate
