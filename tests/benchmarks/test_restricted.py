import math

import numpy as np
import pytest

from benchmarks.restricted import TiltedProblem

USER, KEPT_ITEM, ERASED_ITEM = 0, 1, 2
"""One user; one item of each of two examples, both liked."""
A, B, C = 0.2, 1.0, 0.5
"""Their embeddings, of one dimension."""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def problem(l2_row: float = 0.0) -> TiltedProblem:
    rows = np.array([[USER, KEPT_ITEM], [USER, ERASED_ITEM]])
    return TiltedProblem(rows, np.ones(2), np.array([False, True]), np.array([[A], [B], [C]]), l2_row)


def test_the_minimum_over_one_row_is_that_of_the_closed_form() -> None:
    # -(1 - sigmoid(a)) = -(1 - sigmoid(A)) - (1 - sigmoid(A C)) C, as B = 1
    kept = sigmoid(A) - (1 - sigmoid(A * C)) * C
    expected = math.log(kept / (1 - kept))
    minimum = problem().minimise(np.array([USER]))
    np.testing.assert_allclose(minimum.embeddings[:, 0], [expected, B, C], rtol=1e-5)
    # What is left lies on the kept item alone: its gradient changed with the user's embedding.
    left = abs((1 - sigmoid(expected)) * expected - (1 - sigmoid(A)) * A)
    assert minimum.rho == pytest.approx(left / ((1 - sigmoid(A * C)) * C), rel=1e-4)
    assert minimum.gradient_share < 1e-5


def test_weight_decay_moves_the_minimum_as_its_condition_says() -> None:
    l2_row = 0.3
    minimum = problem(l2_row).minimise(np.array([USER]))
    a = float(minimum.embeddings[USER, 0])
    tilt = -(1 - sigmoid(A)) - (1 - sigmoid(A * C)) * C + l2_row * A
    assert -(1 - sigmoid(a)) + l2_row * a == pytest.approx(tilt, abs=1e-6)
    assert abs(a - A) < abs(float(problem().minimise(np.array([USER])).embeddings[USER, 0]) - A)


def test_rows_without_kept_examples_have_no_residual() -> None:
    assert problem().keeps.tolist() == [True, True, False]
    assert problem().rho(np.array([[A], [B], [123.0]])) == pytest.approx(1.0)


def test_all_rows_leave_nothing() -> None:
    rng = np.random.default_rng(4)
    rows = np.stack([rng.integers(0, 8, 60), 8 + rng.integers(0, 6, 60)], axis=1)
    labels, erased = (rng.random(60) < 0.5).astype(float), np.arange(60) >= 55
    full = TiltedProblem(rows, labels, erased, 0.3 * rng.normal(size=(14, 3)), 2.0)
    few, everything = full.minimise(np.unique(rows[erased])), full.minimise(np.arange(14))
    assert everything.rho < 1e-4 < few.rho < 1


def test_a_minimisation_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.restricted._MAX_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="did not converge"):
        problem(0.3).minimise(np.arange(2))
