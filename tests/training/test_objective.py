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
    propagated,
    reference_gradient,
    reference_score,
    start,
)

N_EXAMPLES = 130
"""Of a training set of which the tests' batches are a part."""
each_model = pytest.mark.parametrize("spec", MODELS, ids=model_id)


def objective_of(spec: ModelSpec) -> TrainingObjective:
    at = start(spec)
    return TrainingObjective(build_model(spec), at.embeddings, at.dense, EDGES, N_EXAMPLES)


@pytest.mark.parametrize("at_once", [7, 1_000])
@each_model
def test_gradient_equals_autograd_through_the_whole_objective(
    spec: ModelSpec, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective_module, "_EXAMPLES_AT_ONCE", at_once)
    rows, labels = examples(50, seed=1, spec=spec)
    value, gradients = objective_of(spec).value_and_gradient(rows, labels)
    expected, expected_gradients = reference_gradient(spec, start(spec), rows, labels, N_EXAMPLES)
    assert value == pytest.approx(expected, rel=1e-12)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-14)


@each_model
def test_nothing_is_left_of_the_batch_before(spec: ModelSpec) -> None:
    used, fresh = objective_of(spec), objective_of(spec)
    rows, _ = before = examples(50, seed=1, spec=spec)
    used.value_and_gradient(*before)
    used.clear(rows)
    batch = examples(5, seed=2, spec=spec)
    value, gradients = used.value_and_gradient(*batch)
    expected, expected_gradients = fresh.value_and_gradient(*batch)
    assert value == expected
    assert all(map(torch.equal, gradients, expected_gradients))


@each_model
def test_scores_are_those_of_the_propagated_rows(spec: ModelSpec) -> None:
    rows = examples(6, seed=2, spec=spec)[0][:, : spec.fields].numpy()
    at = start(spec)
    outputs = propagated(spec, at.embeddings)
    expected = [reference_score(spec, outputs, at.dense, example).item() for example in rows.tolist()]
    np.testing.assert_allclose(objective_of(spec).predictor().scores(rows), expected, rtol=1e-12)
