import numpy as np
import pytest
import torch

from ifru_dist.models import predict
from ifru_dist.models.base import dense_parameters
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec

MODEL = build_model(ModelSpec())


def test_scores_of_many_chunks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    embeddings, rows = generator.normal(size=(9, 4)), generator.integers(0, 9, (23, 2))
    monkeypatch.setattr(predict, "_EXAMPLES_AT_ONCE", 5)
    scores = predict.score_interactions(MODEL, torch.from_numpy(embeddings), {}, rows)
    expected = (embeddings[rows[:, 0]] * embeddings[rows[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-14)


def test_type_is_that_of_the_embeddings_and_no_gradient_is_kept() -> None:
    embeddings = torch.ones(3, 2, requires_grad=True)
    assert predict.score_interactions(MODEL, embeddings, {}, np.array([[0, 1]])).dtype == np.float32
    assert predict.score_interactions(MODEL, embeddings.double(), {}, np.array([[0, 1]])).dtype == np.float64


def test_no_pairs_have_no_scores() -> None:
    assert predict.score_interactions(MODEL, torch.ones(3, 2), {}, np.empty((0, 2), dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize("spec", [ModelSpec(dim=4), ModelSpec(dim=4, loss="bpr"), ModelSpec(name="fm", dim=3)], ids=str)
def test_scores_of_all_items_are_those_of_their_pairs(spec: ModelSpec) -> None:
    model, users, items = build_model(spec), np.array([3, 0]), range(4, 9)
    outputs = torch.randn(9, model.width, generator=torch.Generator().manual_seed(1))
    predictor = predict.Predictor(
        model, outputs, {name: values + 1 for name, values in dense_parameters(model, 1).items()}
    )
    scores = predictor.item_scores(items)(users)
    pairs = np.array([(user, item) for user in users for item in items])
    assert (scores.dtype, scores.shape) == (np.float64, (2, 5))
    np.testing.assert_allclose(scores.reshape(-1), predictor.scores(pairs), rtol=1e-6)
    assert (scores != predictor.item_scores(items)(users[::-1])).all()


def test_dot_products_with_all_items_are_exact_to_float64() -> None:
    outputs = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    scores = predict.Predictor(MODEL, outputs, {}).item_scores(range(4, 9))(np.arange(4))
    np.testing.assert_allclose(scores, outputs[:4].double().numpy() @ outputs[4:].double().numpy().T, rtol=1e-14)
