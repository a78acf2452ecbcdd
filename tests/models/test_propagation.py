import numpy as np
import pytest
import torch

from ifru_dist.models.propagation import Propagation

N_USERS, N_ROWS, DIM = 7, 17, 5


def edges_with_parallels() -> np.ndarray:
    """40 pairs of 6 users and 9 items; some more than once; the last user and the last item have none."""
    rng = np.random.default_rng(3)
    return np.stack([rng.integers(0, N_USERS - 1, 40), rng.integers(N_USERS, N_ROWS - 1, 40)], axis=1)


def dense_propagation(edges: np.ndarray, n_rows: int, layer_weights: tuple[float, ...]) -> np.ndarray:
    """P as a dense matrix, entry by entry."""
    counts = np.zeros((n_rows, n_rows))
    for first, second in edges:
        counts[first, second] += 1
        counts[second, first] += 1
    degrees = counts.sum(axis=1)
    adjacency = np.zeros_like(counts)
    for row, column in zip(*np.nonzero(counts), strict=True):
        adjacency[row, column] = counts[row, column] / np.sqrt(degrees[row] * degrees[column])
    return sum(weight * np.linalg.matrix_power(adjacency, k) for k, weight in enumerate(layer_weights))


@pytest.mark.parametrize("layer_weights", [(1.0,), (0.7,), (0.5, 0.5), (0.2, 0.0, 0.8), (0.1, 0.2, 0.3, 0.4)])
def test_equals_dense_construction(layer_weights: tuple[float, ...]) -> None:
    edges = edges_with_parallels()
    embeddings = torch.randn(N_ROWS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = Propagation(edges, N_ROWS, layer_weights, torch.float64).apply(embeddings)
    expected = dense_propagation(edges, N_ROWS, layer_weights) @ embeddings.numpy()
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-14)


def test_the_test_data_hold_parallel_edges_and_isolated_rows() -> None:
    edges = edges_with_parallels()
    assert len(np.unique(edges, axis=0)) < len(edges)
    assert len(np.unique(edges)) < N_ROWS


def test_order_within_a_pair_does_not_matter() -> None:
    edges = edges_with_parallels()
    embeddings = torch.randn(N_ROWS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = [
        Propagation(pairs, N_ROWS, (0.5, 0.5), torch.float64).apply(embeddings) for pairs in (edges, edges[:, ::-1])
    ]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-14)


def test_is_its_own_transpose() -> None:
    generator = torch.Generator().manual_seed(2)
    left, right = torch.randn(2, N_ROWS, DIM, dtype=torch.float64, generator=generator)
    propagation = Propagation(edges_with_parallels(), N_ROWS, (0.2, 0.3, 0.5), torch.float64)
    torch.testing.assert_close((left * propagation.apply(right)).sum(), (propagation.apply(left) * right).sum())


def test_isolated_row_keeps_its_share_of_itself() -> None:
    embeddings = torch.ones(N_ROWS, DIM)
    result = Propagation(edges_with_parallels(), N_ROWS, (0.25, 0.75), torch.float32).apply(embeddings)
    assert torch.equal(result[N_USERS - 1], torch.full((DIM,), 0.25))
    assert torch.equal(result[N_ROWS - 1], torch.full((DIM,), 0.25))


def test_without_edges_only_the_own_share_is_left() -> None:
    embeddings = torch.ones(4, DIM)
    result = Propagation(np.empty((0, 2), dtype=np.int64), 4, (0.5, 0.5), torch.float32).apply(embeddings)
    assert torch.equal(result, torch.full((4, DIM), 0.5))


def test_identity_costs_nothing_and_apply_leaves_its_input_alone() -> None:
    embeddings = torch.ones(N_ROWS, DIM)
    assert Propagation(edges_with_parallels(), N_ROWS, (1.0,), torch.float32).apply(embeddings) is embeddings
    Propagation(edges_with_parallels(), N_ROWS, (0.5, 0.5), torch.float32).apply(embeddings)
    assert torch.equal(embeddings, torch.ones(N_ROWS, DIM))
