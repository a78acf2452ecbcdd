"""Any model as one dense function of all its parameters in float64: written anew, with loops and torch.func.

The parameters are one vector: the embedding rows, then the model's own parameters. An example is a tuple of rows with a
label, a weight and the id of what would be erased; several tuples may share an id.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Score = Callable[[Tensor, dict[str, Tensor]], Tensor]
"""From rows (a, width) of one example and the dense parameters to its score, ()."""


@dataclass(frozen=True, kw_only=True)
class TupleCase:
    """A small problem for one model."""

    score: Score
    loss: str
    sizes: tuple[int, ...]
    tuples: Tensor
    """(n, a) global rows."""
    label: Tensor
    weight: Tensor
    example: Tensor
    erased: Tensor
    """(n,) bool."""
    embeddings: Tensor
    graph: Tensor
    """(m, 2) row pairs of the positives; ids in ``graph_example``."""
    graph_example: Tensor
    dense: dict[str, Tensor] = field(default_factory=dict)
    layer_weights: tuple[float, ...] = (1.0,)
    l2: float = 0.0
    l2_row: float = 0.0
    l2_dense: float = 0.0
    partitions: int = 4

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    @property
    def start(self) -> Tensor:
        """All parameters as one vector."""
        return torch.cat([self.embeddings.flatten(), *(part.flatten() for part in self.dense.values())])

    def split(self, vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Embeddings and dense parameters of a vector."""
        size, dense = self.embeddings.numel(), {}
        for name, part in self.dense.items():
            dense[name] = vector[size : size + part.numel()].view(part.shape)
            size += part.numel()
        return vector[: self.embeddings.numel()].view_as(self.embeddings), dense


def propagation(case: TupleCase, present: Tensor) -> Tensor:
    """Dense P of the graph without the edges of examples that are not present."""
    here = torch.isin(case.graph_example, case.example[present])
    adjacency = torch.zeros(case.rows, case.rows, dtype=torch.float64)
    for (u, i), kept in zip(case.graph.tolist(), here.tolist(), strict=True):
        adjacency[u, i] += kept
        adjacency[i, u] += kept
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, 1 / degree.clamp(min=1).sqrt(), torch.zeros_like(degree))
    adjacency = scale[:, None] * adjacency * scale[None, :]
    powers = [torch.linalg.matrix_power(adjacency, k) for k in range(len(case.layer_weights))]
    return sum(w * power for w, power in zip(case.layer_weights, powers, strict=True))


def scores(case: TupleCase, present: Tensor, vector: Tensor) -> Tensor:
    """Scores of the present tuples on the graph of the present examples, one after the other."""
    embeddings, dense = case.split(vector)
    outputs = propagation(case, present) @ embeddings
    return torch.stack([case.score(outputs[rows], dense) for rows in case.tuples[present]])


def losses(case: TupleCase, score: Tensor, label: Tensor) -> Tensor:
    """Loss of each score."""
    if case.loss == "squared":
        return (score - label) ** 2 / 2
    return torch.log1p(torch.exp(-score)) * label + torch.log1p(torch.exp(score)) * (1 - label)


def objective(case: TupleCase, present: Tensor, vector: Tensor) -> Tensor:
    """L(parameters; D): weighted losses and regularisers."""
    embeddings, dense = case.split(vector)
    weight, tuples = case.weight[present], case.tuples[present]
    loss = (weight * losses(case, scores(case, present, vector), case.label[present])).sum()
    squares = embeddings.square().sum(1)
    decay = case.l2_row / 2 * squares.sum() + case.l2_dense / 2 * sum(part.square().sum() for part in dense.values())
    return loss + case.l2 / 2 * (weight[:, None] * squares[tuples]).sum() + decay


def residual(case: TupleCase, vector: Tensor) -> Tensor:
    """The gradient of all examples before, less that of the kept ones at a vector."""
    everything, kept = torch.ones_like(case.erased), ~case.erased
    gradient = torch.func.grad(objective, argnums=2)
    return gradient(case, everything, case.start) - gradient(case, kept, vector)


def gauss_newton(case: TupleCase, vector: Tensor) -> Tensor:
    """J^T W J of the kept examples and their regularisers, dense."""
    kept, size = ~case.erased, case.embeddings.numel()
    jacobian = torch.func.jacrev(lambda v: scores(case, kept, v))(vector)
    score = scores(case, kept, vector).requires_grad_()
    first = torch.autograd.grad(losses(case, score, case.label[kept]).sum(), score, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), score)[0].detach()
    counts = torch.zeros(case.rows, dtype=torch.float64)
    for rows, weight in zip(case.tuples[kept].tolist(), case.weight[kept].tolist(), strict=True):
        for row in rows:
            counts[row] += weight
    ridge = torch.full((len(vector),), case.l2_dense, dtype=torch.float64)
    ridge[:size] = (case.l2 * counts + case.l2_row).repeat_interleave(case.embeddings.shape[1])
    return jacobian.T @ ((case.weight[kept] * second)[:, None] * jacobian) + torch.diag(ridge)


def hessian(case: TupleCase, vector: Tensor) -> Tensor:
    """Second derivative of the kept examples' objective, dense."""
    return torch.func.hessian(lambda v: objective(case, ~case.erased, v))(vector)


def masses(case: TupleCase) -> Tensor:
    """Examples of each row with their weights, and of each dense parameter (all of them), per number of the vector."""
    per_row = torch.zeros(case.rows, dtype=torch.float64)
    for rows, weight in zip(case.tuples.tolist(), case.weight.tolist(), strict=True):
        for row in rows:
            per_row[row] += weight
    dense = torch.full((len(case.start) - case.embeddings.numel(),), float(case.weight.sum()), dtype=torch.float64)
    return torch.cat([per_row.repeat_interleave(case.embeddings.shape[1]), dense])


def newton(case: TupleCase, chosen: Tensor, damping: float, steps: int) -> Tensor:
    """The vector after anchored Gauss-Newton steps on the chosen numbers, by dense solves."""
    anchor, vector = damping * masses(case).sqrt(), case.start.clone()
    for _ in range(steps):
        right = residual(case, vector) - anchor * (vector - case.start)
        matrix = gauss_newton(case, vector) + torch.diag(anchor)
        vector = vector.clone()
        vector[chosen] += torch.linalg.solve(matrix[chosen][:, chosen], right[chosen])
    return vector


def downhill_damping(case: TupleCase, chosen: Tensor, steps: int) -> float:
    """The least of some dampings with which every Newton step lowers what the batch minimises, as the solver asks."""
    return next(damping for damping in (0.3, 1.0, 3.0, 10.0, 30.0) if _goes_downhill(case, chosen, damping, steps))


def _goes_downhill(case: TupleCase, chosen: Tensor, damping: float, steps: int) -> bool:
    """Whether each step brings a hundredth of what its quadratic model promises, and more."""
    anchor = damping * masses(case).sqrt()
    tilt = torch.func.grad(objective, argnums=2)(case, torch.ones_like(case.erased), case.start)

    def tilted(vector: Tensor) -> Tensor:
        moved = vector - case.start
        return objective(case, ~case.erased, vector) - tilt @ moved + 0.5 * moved @ (anchor * moved)

    for step in range(steps):
        before, after = (newton(case, chosen, damping, number) for number in (step, step + 1))
        promised = 0.5 * (residual(case, before) - anchor * (before - case.start))[chosen] @ (after - before)[chosen]
        if not tilted(before) - tilted(after) > 0.01 * promised:
            return False
    return True


def endpoints(case: TupleCase) -> tuple[Tensor, Tensor]:
    """Rows (N,) that lose some tuples but not all, and rows that lose all they had."""
    before, lost = torch.zeros(case.rows), torch.zeros(case.rows)
    for rows, gone in zip(case.tuples.tolist(), case.erased.tolist(), strict=True):
        for row in rows:
            before[row] += 1
            lost[row] += gone
    return (lost > 0) & (lost < before), (lost > 0) & (lost == before)
