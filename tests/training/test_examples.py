"""What is trained on: interactions as they are, or positives with negatives drawn anew."""

import numpy as np
import pytest

from ifru_dist.errors import InputError
from ifru_dist.interactions import Interactions
from ifru_dist.models.factory import build_model
from ifru_dist.models.negatives import Negatives
from ifru_dist.models.spec import ModelSpec
from ifru_dist.training.examples import FIRST_EPOCH_DRAW, TrainingExamples

SIZES = (20, 30)
ITEMS = range(20, 50)


def data(ids: bool = False) -> Interactions:
    generator = np.random.default_rng(1)
    rows = np.stack([generator.integers(0, 20, 200), generator.integers(20, 50, 200)], axis=1)
    labels = (generator.random(200) < 0.6).astype(np.float32)
    return Interactions(rows, labels, np.arange(200) * 3 + 5 if ids else None)


def examples(loss: str, train: Interactions, seed: int = 7) -> TrainingExamples:
    return TrainingExamples(build_model(ModelSpec(loss=loss, negatives=3)), train, SIZES, seed)


@pytest.mark.parametrize("loss", ["bce", "squared"])
def test_without_negatives_the_examples_are_the_interactions(loss: str) -> None:
    train, drawn = data(), examples(loss, data())
    assert len(drawn) == 200
    for given in (drawn.of_epoch(1), drawn.of_epoch(2), drawn.of_objective()):
        assert np.array_equal(given.rows, train.rows)
        assert np.array_equal(given.labels, train.labels)


def test_only_positives_are_trained_with_negatives() -> None:
    train, drawn = data(), examples("bpr", data())
    positives = train.rows[train.labels == 1]
    epoch = drawn.of_epoch(1)
    assert len(drawn) == len(epoch) == len(positives)
    assert np.array_equal(epoch.rows[:, :2], positives)
    assert (epoch.labels == 1).all()
    known = set(map(tuple, positives.tolist()))
    assert not any((user, negative) in known for user, _, negative in epoch.rows.tolist())
    assert epoch.rows[:, 2].min() >= 20


def test_each_epoch_has_negatives_of_its_own_and_none_of_the_objective() -> None:
    drawn = examples("bpr", data())
    columns = [drawn.of_epoch(number).rows[:, 2] for number in (1, 2)]
    objective = drawn.of_objective().rows[:, 2].reshape(-1, 3)
    for first, second in ((columns[0], columns[1]), *((columns[0], objective[:, draw]) for draw in range(3))):
        assert (first == second).mean() < 0.2  # 1 in 20 by chance
    assert np.array_equal(columns[0], drawn.of_epoch(1).rows[:, 2])
    assert FIRST_EPOCH_DRAW > 1_000_000


@pytest.mark.parametrize("ids", [False, True])
def test_negatives_of_the_objective_are_those_of_seed_and_example_id(ids: bool) -> None:
    train = data(ids)
    positive = train.labels == 1
    numbers = np.flatnonzero(positive) if train.ids is None else train.ids[positive]
    expected = Negatives(train.positives(), ITEMS, seed=7).tuples(train.rows[positive], numbers, range(3))
    objective = examples("bpr", train).of_objective()
    assert len(objective) == 3 * positive.sum()
    assert np.array_equal(objective.rows, expected.rows)
    assert np.array_equal(objective.ids, np.repeat(numbers, 3))


def test_an_example_keeps_its_negatives_when_others_go() -> None:
    train = data(ids=True)
    kept = train.take(np.arange(200) % 7 > 0)
    before, after = (examples("bpr", some).of_objective() for some in (train, kept))
    left = np.isin(before.ids, after.ids)
    known = set(map(tuple, kept.positives().tolist()))
    free = [(user, negative) not in known for user, _, negative in before.rows[left].tolist()]
    assert all(free)
    assert (before.rows[left] == after.rows).all(axis=1).mean() > 0.95  # the others drew what is no positive any more


def test_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match=r"the training set is empty: .*--k-core"):
        examples("bce", data().take(np.arange(0)))
    with pytest.raises(InputError, match=r"no training interaction has the label 1, and --loss bpr"):
        examples("bpr", data().take(data().labels == 0))
