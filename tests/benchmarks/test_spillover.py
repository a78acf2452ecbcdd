"""Erasing as if the graph stayed as it was, on small random graphs."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.jobs import read_report
from benchmarks.spillover import GraphProblem, direct_only
from ifru_dist.pipelines.unlearn import UnlearnConfig, unlearn
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version
from tests.pipelines.small import pair, request_file, small_interactions, small_workspace

ROWS = np.unique(small_interactions().rows, axis=0)
USERS, ITEMS, N_EXAMPLES, N_ERASED = 8, 6, 60, 5
L2_ROW = 20.0


def problem(erased_label: float, layers: int = 1) -> GraphProblem:
    """The last examples go; all of them have the same label."""
    rng = np.random.default_rng(4)
    rows = np.stack([rng.integers(0, USERS, N_EXAMPLES), USERS + rng.integers(0, ITEMS, N_EXAMPLES)], axis=1)
    labels = (rng.random(N_EXAMPLES) < 0.5).astype(float)
    erased = np.arange(N_EXAMPLES) >= N_EXAMPLES - N_ERASED
    labels[erased] = erased_label
    embeddings = 0.3 * rng.normal(size=(USERS + ITEMS, 3))
    return GraphProblem(rows, labels, erased, embeddings, layers=layers, l2_row=2.0)


def test_outputs_are_those_of_a_dense_propagation() -> None:
    rows, labels = np.array([[0, 2], [0, 3], [1, 3]]), np.array([1.0, 1.0, 0.0])
    embeddings = np.arange(8.0).reshape(4, 2)
    small = GraphProblem(rows, labels, np.zeros(3, bool), embeddings, layers=2, l2_row=0.0)
    share = 1 / np.sqrt(2)
    adjacency = np.array([[0, 0, share, share], [0, 0, 0, 0], [share, 0, 0, 0], [share, 0, 0, 0]])
    outputs = (embeddings + adjacency @ embeddings + adjacency @ adjacency @ embeddings) / 3
    expected = [outputs[0] @ outputs[2], outputs[1] @ outputs[3]]
    np.testing.assert_allclose(small.scores(embeddings, np.array([[0, 2], [1, 3]])), expected)


def test_erased_negatives_have_no_spillover() -> None:
    negatives = problem(erased_label=0.0)
    direct, both = negatives.without_spillover(), negatives.with_spillover()
    np.testing.assert_allclose(direct, both, atol=1e-6)
    assert negatives.rho(direct) < 1e-3


@pytest.mark.parametrize("layers", [1, 2])
def test_without_the_spillover_of_erased_positives_influence_is_left(layers: int) -> None:
    positives = problem(erased_label=1.0, layers=layers)
    assert positives.rho(positives.with_spillover()) < 1e-3
    assert 0.01 < positives.rho(positives.without_spillover()) < 1


def test_the_batch_is_that_of_the_workspace(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    before = small_workspace(root, name="lightgcn", layers=1, l2=0.0, l2_row=L2_ROW)
    requests = request_file(tmp_path / "requests.parquet", *(pair(rows) for rows in ROWS[:9]))
    config = UnlearnConfig(
        workspace=root,
        requests=requests,
        workers=0,
        damping=0.0,
        newton_steps=1,
        residual_budget=100.0,
        output=tmp_path / "report",
    )
    assert unlearn(config) == 0
    after, examples = open_version(Workspace(root)), before.all_examples()
    same = GraphProblem(examples.rows, examples.labels, ~after.alive(), before.embeddings(), layers=1, l2_row=L2_ROW)
    rho = read_report(tmp_path / "report")["influence_residual"]
    assert 0 < rho < 1
    assert same.rho(after.embeddings()) == pytest.approx(rho, rel=1e-6)
    assert direct_only(root)["rho"] == pytest.approx(same.rho(same.without_spillover()), rel=1e-9)
