import numpy as np
import pytest
import torch

from ifru_dist.models import predict
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec

MODEL = build_model(ModelSpec())


def test_scores_of_many_chunks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    embeddings, rows = generator.normal(size=(9, 4)), generator.integers(0, 9, (23, 2))
    monkeypatch.setattr(predict, "_PAIRS_AT_ONCE", 5)
    scores = predict.score_interactions(MODEL, torch.from_numpy(embeddings), rows)
    expected = (embeddings[rows[:, 0]] * embeddings[rows[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-14)


def test_type_is_that_of_the_embeddings_and_no_gradient_is_kept() -> None:
    embeddings = torch.ones(3, 2, requires_grad=True)
    assert predict.score_interactions(MODEL, embeddings, np.array([[0, 1]])).dtype == np.float32
    assert predict.score_interactions(MODEL, embeddings.double(), np.array([[0, 1]])).dtype == np.float64


def test_no_pairs_have_no_scores() -> None:
    assert predict.score_interactions(MODEL, torch.ones(3, 2), np.empty((0, 2), dtype=np.int64)).shape == (0,)
