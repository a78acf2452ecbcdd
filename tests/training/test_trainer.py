import dataclasses

import pytest
import torch

from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.objective import TrainingObjective
from ifru_dist.training.trainer import Trainer
from tests.training.reference import EDGES, MODELS, N_USERS, examples, model_id, reference_gradient, start

N_EXAMPLES = 52
each_model = pytest.mark.parametrize("spec", MODELS, ids=model_id)


def trainer_of(spec: ModelSpec, embeddings: torch.Tensor) -> Trainer:
    return Trainer(TrainingObjective(build_model(spec), embeddings, EDGES, N_EXAMPLES), 0.01)


@each_model
def test_steps_equal_hand_written_adam(spec: ModelSpec) -> None:
    embeddings, expected = start(), start()
    trainer = trainer_of(spec, embeddings)
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for t in range(1, 5):
        rows, labels = examples(13, seed=t)
        objective = trainer.step(rows, labels)
        expected_objective, gradient = reference_gradient(spec, expected, rows, labels, N_EXAMPLES)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        expected = expected - 0.01 * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        assert objective == pytest.approx(expected_objective, rel=1e-11)
        torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-12)


@each_model
def test_row_decay_too_small_to_matter_changes_no_bit(spec: ModelSpec) -> None:
    without, with_traces = start(), start()
    trainers = [
        trainer_of(dataclasses.replace(spec, l2_row=0.0), without),
        trainer_of(dataclasses.replace(spec, l2_row=1e-200), with_traces),
    ]
    for t in range(1, 5):
        objectives = [trainer.step(*examples(13, seed=t)) for trainer in trainers]
        assert objectives[0] == objectives[1]
    assert torch.equal(without, with_traces)


def test_row_decay_reaches_rows_without_examples() -> None:
    embeddings = start()
    trainer_of(ModelSpec(l2_row=0.5), embeddings).step(torch.tensor([[0, N_USERS]]), torch.tensor([1.0]).double())
    assert torch.equal(torch.sign(embeddings - start())[1:N_USERS], -torch.sign(start())[1:N_USERS])


def test_rows_that_the_batch_does_not_hold_move_on() -> None:
    embeddings = start()
    trainer = trainer_of(ModelSpec(), embeddings)
    trainer.step(torch.tensor([[0, N_USERS]]), torch.tensor([1.0], dtype=torch.float64))
    before = embeddings.clone()
    trainer.step(torch.tensor([[1, N_USERS + 1]]), torch.tensor([1.0], dtype=torch.float64))
    assert (embeddings[[0, N_USERS]] != before[[0, N_USERS]]).all()
    assert torch.equal(embeddings[2], start()[2])
