import pytest
import torch

from ifru_dist.models.losses import LOSSES, BinaryCrossEntropy, Loss, SquaredError

SCORES = torch.linspace(-30, 30, 61, dtype=torch.float64)


def test_value_is_the_negative_log_likelihood() -> None:
    scores = torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    expected = torch.log1p(torch.exp(torch.tensor([0.0, -2.0, -2.0], dtype=torch.float64)))
    torch.testing.assert_close(BinaryCrossEntropy().value(scores, labels), expected)


def test_half_of_the_squared_error() -> None:
    scores, labels = torch.tensor([3.0, -0.5, 1.0]), torch.tensor([1.0, 0.0, 1.0])
    assert torch.equal(SquaredError().value(scores, labels), torch.tensor([2.0, 0.125, 0.0]))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_error_and_curvature_are_the_derivatives_of_the_value(loss: Loss) -> None:
    for label in (0.0, 1.0):
        scores, labels = SCORES.clone().requires_grad_(), torch.full_like(SCORES, label)
        first = torch.autograd.grad(loss.value(scores, labels).sum(), scores, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), scores)[0]
        torch.testing.assert_close(loss.error(SCORES, labels), first.detach(), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(loss.curvature(SCORES, labels), second, rtol=1e-9, atol=1e-15)


def test_large_scores_do_not_overflow() -> None:
    scores, labels = torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0])
    assert torch.equal(BinaryCrossEntropy().value(scores, labels), torch.tensor([1e4, 1e4]))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_derivatives_do_not_depend_on_where_a_score_stands(loss: Loss) -> None:
    """Workers hold different slices of the examples; each example must give the same bits in all of them."""
    scores = torch.randn(3001, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    labels = (scores > 0).double()
    error, curvature = loss.error(scores, labels), loss.curvature(scores, labels)
    for start in range(17):
        for stop in range(start + 1, start + 40):
            part = slice(start, stop)
            assert torch.equal(loss.error(scores[part].clone(), labels[part]), error[part])
            assert torch.equal(loss.curvature(scores[part].clone(), labels[part]), curvature[part])
