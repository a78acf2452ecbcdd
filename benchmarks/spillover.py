"""What erasing leaves where the graph is taken to stay as it was: the direct influence only, minimised independently.

    F(E) = L(E; D', G(D)) - <g0, E>,  g0 = grad L(E0; D, G(D))        (docs/method.md; the spillover would be in G(D'))

For LightGCN with weight decay per row. Nothing here is shared with the package's solver: a sparse matrix per graph,
gradients by autograd in float64, and scipy's L-BFGS-B instead of Newton steps.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

_CONVERGED = 1e-3
_CORRECTION_PAIRS = 30
_MAX_ITERATIONS = 20_000


def direct_only(root: Path) -> dict[str, Any]:
    """The only batch of a workspace since its model was trained, erased anew without the spillover.

    Returns:
        ``rho``: of the true residual, on the graph that is left; ``logit_gap_erased`` and ``logit_gap_test``: mean
        distance of the scores on that graph from those of a model that was trained on, without the erased examples.
    """
    after = open_version(Workspace(root))
    before, examples = after.original(), after.all_examples()
    problem = GraphProblem(
        examples.rows,
        examples.labels,
        ~after.alive(),
        before.embeddings(),
        layers=after.model.spec.layers,
        l2_row=after.model.spec.l2_row,
    )
    direct, retrained = problem.without_spillover(), problem.retrained()
    erased, test = examples.rows[~after.alive()], after.held_out("test").rows
    gaps = {
        name: float(np.abs(problem.scores(direct, pairs) - problem.scores(retrained, pairs)).mean())
        for name, pairs in (("logit_gap_erased", erased), ("logit_gap_test", test))
    }
    return {"rho": problem.rho(direct), **gaps}


class GraphProblem:
    """One batch for LightGCN: the examples before it, those that go, and the embeddings that it starts from."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.floating],
        erased: NDArray[np.bool_],
        embeddings: NDArray[np.floating],
        *,
        layers: int,
        l2_row: float,
    ) -> None:
        """Build both graphs and form the tilt.

        Args:
            rows: (n, 2) rows of the examples' users and items among all rows.
            labels: (n,)
            erased: (n,) the examples that go.
            embeddings: (N, d) before the batch.
            layers: of the propagation.
            l2_row: weight decay of every row.
        """
        self._rows, self._labels = torch.tensor(rows), torch.tensor(labels, dtype=torch.float64)
        self._start, self._l2_row, self._layers = torch.tensor(embeddings, dtype=torch.float64), l2_row, layers
        everything, self._left = torch.ones(len(rows), dtype=torch.bool), torch.tensor(~erased)
        self._before, self._after = (self._adjacency(examples) for examples in (everything, self._left))
        self._tilt = self._gradient(self._start, everything, self._before)[1]
        self._keeps = torch.zeros(len(embeddings), dtype=torch.bool)
        self._keeps[self._rows[self._left].reshape(-1)] = True

    def without_spillover(self) -> NDArray[np.float64]:
        """Embeddings (N, d) that minimise F on the graph before; rows without kept examples stay."""
        return self._minimised(self._before, self._tilt)

    def with_spillover(self) -> NDArray[np.float64]:
        """Embeddings (N, d) that minimise F on the graph after."""
        return self._minimised(self._after, self._tilt)

    def retrained(self) -> NDArray[np.float64]:
        """Embeddings (N, d) that minimise L without the erased examples, from those before the batch."""
        return self._minimised(self._after, torch.zeros_like(self._tilt))

    def rho(self, embeddings: NDArray[np.floating]) -> float:
        """||r(E)|| / ||r(E0)|| over all rows that keep examples, spillover included."""
        residuals = [self._residual(at).norm() for at in (torch.tensor(embeddings, dtype=torch.float64), self._start)]
        return float(residuals[0] / residuals[1])

    def scores(self, embeddings: NDArray[np.floating], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores (m,) of pairs of rows (m, 2) on the graph after."""
        outputs = self._outputs(torch.tensor(embeddings, dtype=torch.float64), self._after)
        ends = outputs[torch.tensor(pairs)]
        return np.asarray((ends[:, 0] * ends[:, 1]).sum(dim=1).numpy())

    def _minimised(self, graph: Tensor, tilt: Tensor) -> NDArray[np.float64]:
        """Where L without the erased examples on a graph, minus <tilt, E>, is least over the rows that keep examples.

        Raises:
            RuntimeError: the minimisation did not converge.
        """
        selected = torch.nonzero(self._keeps).flatten()

        def at(x: NDArray[np.float64]) -> Tensor:
            embeddings = self._start.clone()
            embeddings[selected] = torch.from_numpy(x).view(len(selected), -1)
            return embeddings

        def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            embeddings = at(x)
            value, gradient = self._gradient(embeddings, self._left, graph)
            value -= float((tilt * (embeddings - self._start)).sum())
            return value, (gradient - tilt)[selected].numpy().reshape(-1)

        start = self._start[selected].numpy().reshape(-1)
        wanted = _CONVERGED * float(np.linalg.norm(value_and_gradient(start)[1]))
        result = minimize(
            value_and_gradient,
            start,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _MAX_ITERATIONS,
                "maxfun": 2 * _MAX_ITERATIONS,
                "maxcor": _CORRECTION_PAIRS,
                "ftol": 0.0,
                "gtol": 1e-3 * wanted / math.sqrt(max(len(start), 1)),
            },
        )
        if not (norm := float(np.linalg.norm(value_and_gradient(result.x)[1]))) <= wanted:
            raise RuntimeError(
                f"the independent minimisation did not converge: its gradient is {norm:.2g}, {wanted:.2g} was wanted, "
                f"after {result.nit} iterations ({result.message})"
            )
        return np.asarray(at(result.x).numpy())

    def _residual(self, embeddings: Tensor) -> Tensor:
        """r(E) of the rows that keep examples: on the graph before minus on the graph after."""
        return (self._tilt - self._gradient(embeddings, self._left, self._after)[1])[self._keeps]

    def _gradient(self, embeddings: Tensor, examples: Tensor, graph: Tensor) -> tuple[float, Tensor]:
        """L over some examples (n,) bool on a graph, and its gradient (N, d)."""
        at = embeddings.clone().requires_grad_()
        user, item = self._rows[examples].T
        outputs = self._outputs(at, graph)
        scores = (outputs[user] * outputs[item]).sum(dim=1)
        loss = binary_cross_entropy_with_logits(scores, self._labels[examples], reduction="sum")
        objective = loss + 0.5 * self._l2_row * at.square().sum()
        (gradient,) = torch.autograd.grad(objective, at)
        return float(objective.detach()), gradient

    def _outputs(self, embeddings: Tensor, graph: Tensor) -> Tensor:
        """Mean over k = 0 .. layers of A^k E, (N, d)."""
        layer = total = embeddings
        for _ in range(self._layers):
            layer = torch.sparse.mm(graph, layer)
            total = total + layer
        return total / (self._layers + 1)

    def _adjacency(self, examples: Tensor) -> Tensor:
        """D^-1/2 (B + B^T) D^-1/2 of the positives among some examples (n,) bool, (N, N) sparse."""
        edges = self._rows[examples & (self._labels > 0.5)]
        ends = torch.cat([edges, edges.flip(1)]).T
        size = len(self._start)
        degrees = torch.bincount(ends[0], minlength=size).double()
        values = (degrees[ends[0]] * degrees[ends[1]]).rsqrt()
        return torch.sparse_coo_tensor(ends, values, (size, size), check_invariants=True).coalesce()
