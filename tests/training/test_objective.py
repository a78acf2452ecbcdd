import numpy as np
import pytest
import torch

from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training import objective as objective_module
from ifru_dist.training.objective import TrainingObjective
from tests.training.reference import (
    EDGES,
    MODELS,
    examples,
    model_id,
    reference_gradient,
    reference_objective,
    start,
)

N_EXAMPLES = 130
"""Of a training set of which the tests' batches are a part."""
each_model = pytest.mark.parametrize("spec", MODELS, ids=model_id)


def objective_of(spec: ModelSpec) -> TrainingObjective:
    return TrainingObjective(build_model(spec), start(), EDGES, N_EXAMPLES)


@pytest.mark.parametrize("at_once", [7, 1_000])
@each_model
def test_gradient_equals_autograd_through_the_whole_objective(
    spec: ModelSpec, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective_module, "_EXAMPLES_AT_ONCE", at_once)
    rows, labels = examples(50, seed=1)
    value, gradient = objective_of(spec).value_and_gradient(rows, labels)
    expected, expected_gradient = reference_gradient(spec, start(), rows, labels, N_EXAMPLES)
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-14)


@each_model
def test_nothing_is_left_of_the_batch_before(spec: ModelSpec) -> None:
    used, fresh = objective_of(spec), objective_of(spec)
    rows, _ = before = examples(50, seed=1)
    used.value_and_gradient(*before)
    used.clear(rows)
    batch = examples(5, seed=2)
    value, gradient = used.value_and_gradient(*batch)
    expected, expected_gradient = fresh.value_and_gradient(*batch)
    assert value == expected
    assert torch.equal(gradient, expected_gradient)


@each_model
def test_scores_are_those_of_the_propagated_rows(spec: ModelSpec) -> None:
    rows, labels = examples(6, seed=2)
    scores = objective_of(spec).scores(rows.numpy())
    decay = spec.l2_row / 2 * start().square().sum().item() / N_EXAMPLES
    for row, label, score in zip(rows, labels, scores, strict=True):
        regulariser = spec.l2 / 2 * start()[row].square().sum().item() + decay
        loss = reference_objective(spec, start(), row[None], label[None], N_EXAMPLES).item() - regulariser
        assert np.logaddexp(0, (1 - 2 * label.item()) * score) == pytest.approx(loss, rel=1e-12)
