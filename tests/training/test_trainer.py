import dataclasses

import pytest
import torch

from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.objective import TrainingObjective
from ifru_dist.training.trainer import Trainer
from tests.training.reference import EDGES, MODELS, N_USERS, Point, examples, model_id, reference_gradient, start

N_EXAMPLES = 52
each_model = pytest.mark.parametrize("spec", MODELS, ids=model_id)


def trainer_of(spec: ModelSpec, at: Point) -> Trainer:
    return Trainer(TrainingObjective(build_model(spec), at.embeddings, at.dense, EDGES, N_EXAMPLES), 0.01)


@each_model
def test_steps_equal_hand_written_adam(spec: ModelSpec) -> None:
    at, expected = start(spec), start(spec)
    trainer = trainer_of(spec, at)
    first, second = ([torch.zeros_like(values) for values in expected.all] for _ in range(2))
    for t in range(1, 5):
        rows, labels = examples(13, seed=t, spec=spec)
        objective = trainer.step(rows, labels)
        expected_objective, gradients = reference_gradient(spec, expected, rows, labels, N_EXAMPLES)
        for values, gradient, m, v in zip(expected.all, gradients, first, second, strict=True):
            m.mul_(0.9).add_(0.1 * gradient)
            v.mul_(0.999).add_(0.001 * gradient**2)
            values.sub_(0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8))
        assert objective == pytest.approx(expected_objective, rel=1e-11)
        for values, wanted in zip(at.all, expected.all, strict=True):
            torch.testing.assert_close(values, wanted, rtol=0, atol=1e-12)


@each_model
def test_row_decay_too_small_to_matter_changes_no_bit(spec: ModelSpec) -> None:
    without, with_traces = start(spec), start(spec)
    trainers = [
        trainer_of(dataclasses.replace(spec, l2_row=0.0), without),
        trainer_of(dataclasses.replace(spec, l2_row=1e-200), with_traces),
    ]
    for t in range(1, 5):
        objectives = [trainer.step(*examples(13, seed=t, spec=spec)) for trainer in trainers]
        assert objectives[0] == objectives[1]
    assert all(map(torch.equal, without.all, with_traces.all))


def test_row_decay_reaches_rows_without_examples() -> None:
    at, before = start(), start().embeddings
    trainer_of(ModelSpec(l2_row=0.5), at).step(torch.tensor([[0, N_USERS]]), torch.tensor([1.0]).double())
    assert torch.equal(torch.sign(at.embeddings - before)[1:N_USERS], -torch.sign(before)[1:N_USERS])


def test_rows_that_the_batch_does_not_hold_move_on() -> None:
    at = start()
    trainer = trainer_of(ModelSpec(), at)
    trainer.step(torch.tensor([[0, N_USERS]]), torch.tensor([1.0], dtype=torch.float64))
    before = at.embeddings.clone()
    trainer.step(torch.tensor([[1, N_USERS + 1]]), torch.tensor([1.0], dtype=torch.float64))
    assert (at.embeddings[[0, N_USERS]] != before[[0, N_USERS]]).all()
    assert torch.equal(at.embeddings[2], start().embeddings[2])
