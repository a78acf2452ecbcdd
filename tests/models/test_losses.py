import pytest
import torch

from ifru_dist.models.losses import LOSSES, BinaryCrossEntropy, Loss, SquaredError, Tempered, tempered

SCORES = torch.linspace(-30, 30, 61, dtype=torch.float64)
ALL = [*LOSSES.values(), *(Tempered(loss, temperature) for loss in LOSSES.values() for temperature in (1.5, 4.0))]
EACH_LOSS = pytest.mark.parametrize("loss", ALL, ids=lambda loss: f"{loss.name}-{getattr(loss, 'temperature', 1.0)}")


def test_value_is_the_negative_log_likelihood() -> None:
    scores = torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    expected = torch.log1p(torch.exp(torch.tensor([0.0, -2.0, -2.0], dtype=torch.float64)))
    torch.testing.assert_close(BinaryCrossEntropy().value(scores, labels), expected)


def test_half_of_the_squared_error() -> None:
    scores, labels = torch.tensor([3.0, -0.5, 1.0]), torch.tensor([1.0, 0.0, 1.0])
    assert torch.equal(SquaredError().value(scores, labels), torch.tensor([2.0, 0.125, 0.0]))


@EACH_LOSS
def test_error_and_curvature_are_the_derivatives_of_the_value(loss: Loss) -> None:
    for label in (0.0, 1.0):
        scores, labels = SCORES.clone().requires_grad_(), torch.full_like(SCORES, label)
        first = torch.autograd.grad(loss.value(scores, labels).sum(), scores, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), scores)[0]
        torch.testing.assert_close(loss.error(SCORES, labels), first.detach(), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(loss.curvature(SCORES, labels), second, rtol=1e-9, atol=1e-15)


@EACH_LOSS
def test_error_and_curvature_are_the_slopes_that_finite_differences_see(loss: Loss) -> None:
    scores = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for label in (0.0, 1.0):
        labels, width = torch.full_like(scores, label), 1e-5
        for slope, of in ((loss.error, loss.value), (loss.curvature, loss.error)):
            seen = (of(scores + width, labels) - of(scores - width, labels)) / (2 * width)
            torch.testing.assert_close(slope(scores, labels), seen, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.5, 4.0])
def test_a_tempered_loss_is_that_of_scores_nearer_to_zero(temperature: float) -> None:
    warm, labels = Tempered(BinaryCrossEntropy(), temperature), torch.ones_like(SCORES)
    expected = temperature * torch.log1p(torch.exp(-SCORES / temperature))
    torch.testing.assert_close(warm.value(SCORES, labels), expected)
    assert warm.name == "bce"
    saturated = SCORES > 5  # where errors of a well-fitted example have vanished, those at a temperature are larger
    cold = BinaryCrossEntropy()
    assert bool((warm.error(SCORES, labels).abs() > cold.error(SCORES, labels).abs())[saturated].all())
    assert bool((warm.curvature(SCORES, labels) > cold.curvature(SCORES, labels))[saturated].all())


def test_at_temperature_one_the_loss_is_itself() -> None:
    for loss in LOSSES.values():
        assert tempered(loss, 1.0) is loss
        assert tempered(loss, 2.0) == Tempered(loss, 2.0)


def test_large_scores_do_not_overflow() -> None:
    scores, labels = torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0])
    assert torch.equal(BinaryCrossEntropy().value(scores, labels), torch.tensor([1e4, 1e4]))


@EACH_LOSS
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
