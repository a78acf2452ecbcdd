"""An independent dense computation in float64: it shares no code with the package and uses torch.func throughout."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """A small problem: rows of both tables, examples, which of them go, and an embedding."""

    sizes: tuple[int, int]
    pairs: Tensor
    """(n, 2) global rows."""
    label: Tensor
    erased: Tensor
    """(n,) bool."""
    embeddings: Tensor
    layer_weights: tuple[float, ...]
    l2: float
    partitions: int
    l2_row: float = 0.0

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    @property
    def name(self) -> str:
        return f"{'mf' if len(self.layer_weights) == 1 else 'lightgcn'}-{self.rows}-{self.partitions}"


def propagation(case: Case, present: Tensor) -> Tensor:
    """Dense P of the positives among the present examples."""
    adjacency = torch.zeros(case.rows, case.rows, dtype=torch.float64)
    for (u, i), y, here in zip(case.pairs.tolist(), case.label.tolist(), present.tolist(), strict=True):
        if here and y > 0.5:
            adjacency[u, i] += 1
            adjacency[i, u] += 1
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, 1 / degree.clamp(min=1).sqrt(), torch.zeros_like(degree))
    adjacency = scale[:, None] * adjacency * scale[None, :]
    powers = [torch.linalg.matrix_power(adjacency, k) for k in range(len(case.layer_weights))]
    return sum(w * power for w, power in zip(case.layer_weights, powers, strict=True))


def scores(case: Case, present: Tensor, embeddings: Tensor) -> Tensor:
    """Scores of the present examples on the graph of the present examples."""
    outputs = propagation(case, present) @ embeddings
    pairs = case.pairs[present]
    return (outputs[pairs[:, 0]] * outputs[pairs[:, 1]]).sum(1)


def objective(case: Case, present: Tensor, embeddings: Tensor) -> Tensor:
    """L(E; D): summed loss, per-example regulariser and per-row weight decay."""
    score = scores(case, present, embeddings)
    y, pairs = case.label[present], case.pairs[present]
    loss = -(y * torch.nn.functional.logsigmoid(score) + (1 - y) * torch.nn.functional.logsigmoid(-score)).sum()
    per_example = embeddings[pairs[:, 0]].square().sum() + embeddings[pairs[:, 1]].square().sum()
    return loss + case.l2 / 2 * per_example + case.l2_row / 2 * embeddings.square().sum()


def residual(case: Case, embeddings: Tensor) -> Tensor:
    """r(E) = grad L(E0; D) - grad L(E; D'), (rows, d)."""
    everything, kept = torch.ones_like(case.erased), ~case.erased
    gradient = torch.func.grad(objective, argnums=2)
    return gradient(case, everything, case.embeddings) - gradient(case, kept, embeddings)


def tilted(case: Case, embeddings: Tensor, damping: float) -> Tensor:
    """F(E) - F(E0) of the batch, (): its minimiser over the moving rows is what Newton steps go to."""
    everything, kept = torch.ones_like(case.erased), ~case.erased
    degree = torch.bincount(case.pairs.flatten(), minlength=case.rows).double()
    moved = embeddings - case.embeddings
    change = objective(case, kept, embeddings) - objective(case, kept, case.embeddings)
    tilt = (torch.func.grad(objective, argnums=2)(case, everything, case.embeddings) * moved).sum()
    return change - tilt + 0.5 * (damping * degree.sqrt()[:, None] * moved.square()).sum()


def hessian(case: Case, embeddings: Tensor) -> Tensor:
    """Second derivative of the kept examples' objective, (rows * d, rows * d)."""
    size = embeddings.numel()
    return torch.func.hessian(lambda e: objective(case, ~case.erased, e))(embeddings).reshape(size, size)


def gauss_newton(case: Case, embeddings: Tensor) -> Tensor:
    """J^T W J + l2 of the kept examples, (rows * d, rows * d)."""
    kept = ~case.erased
    size = embeddings.numel()
    jacobian = torch.func.jacrev(lambda e: scores(case, kept, e))(embeddings).reshape(-1, size)
    q = torch.sigmoid(scores(case, kept, embeddings))
    counts = torch.bincount(case.pairs[kept].flatten(), minlength=case.rows).double()
    ridge = (case.l2 * counts + case.l2_row).repeat_interleave(embeddings.shape[1])
    return jacobian.T @ ((q * (1 - q))[:, None] * jacobian) + torch.diag(ridge)


def endpoint_masks(case: Case) -> tuple[Tensor, Tensor]:
    """Rows that lose some examples but not all, and rows that lose all they had."""
    before = torch.bincount(case.pairs.flatten(), minlength=case.rows)
    lost = torch.bincount(case.pairs[case.erased].flatten(), minlength=case.rows)
    return (lost > 0) & (lost < before), (lost > 0) & (lost == before)


def newton(case: Case, selected: Tensor, damping: float, steps: int, *, flow: bool = False) -> Tensor:
    """Embeddings after anchored Gauss-Newton steps on the selected rows, by dense solves.

    With ``flow`` each step is anchored where it begins, as many times as firmly as there are steps.
    """
    d = case.embeddings.shape[1]
    degree = torch.bincount(case.pairs.flatten(), minlength=case.rows).double()
    ridge = (damping * degree.sqrt()).repeat_interleave(d) * (steps if flow else 1)
    chosen = selected.repeat_interleave(d)
    embeddings = case.embeddings.clone()
    for _ in range(steps):
        pull = 0 if flow else ridge * (embeddings - case.embeddings).flatten()
        right = residual(case, embeddings).flatten() - pull
        matrix = gauss_newton(case, embeddings) + torch.diag(ridge)
        step = torch.zeros(embeddings.numel(), dtype=torch.float64)
        step[chosen] = torch.linalg.solve(matrix[chosen][:, chosen], right[chosen])
        embeddings = embeddings + step.reshape(embeddings.shape)
    return embeddings


def importance(case: Case, hops: int) -> Tensor:
    """The paper's importance of rows up to some hops from the endpoints, by dense loops; 0 where not reached."""
    degree = torch.bincount(case.pairs.flatten(), minlength=case.rows).double()
    lost = torch.bincount(case.pairs[case.erased].flatten(), minlength=case.rows).double()
    value = torch.where(degree > 0, lost / degree.clamp(min=1), torch.zeros_like(degree))
    reached = lost > 0
    for _ in range(hops):
        total = torch.zeros_like(value)
        for u, i in case.pairs.tolist():
            total[u] += value[i] if reached[i] else 0
            total[i] += value[u] if reached[u] else 0
        fresh = ~reached & (total > 0)
        value = torch.where(fresh, total / degree.clamp(min=1), value)
        reached = reached | fresh
    return value


def random_case(
    seed: int,
    *,
    users: int,
    items: int,
    examples: int,
    layer_weights: tuple[float, ...],
    l2: float,
    partitions: int,
    l2_row: float = 0.0,
) -> Case:
    """A random problem with a user who has every item, a user who loses everything, and rows without examples."""
    rng = np.random.default_rng(seed)
    everything = [(u, i) for u in range(1, users - 1) for i in range(items - 1)]
    chosen = rng.choice(len(everything), size=min(examples, len(everything)), replace=False)
    pairs = [everything[k] for k in sorted(chosen)]
    pairs += [(0, i) for i in range(items - 1)]  # user 0 has every item but the last, which nobody has
    pairs = [pairs[k] for k in rng.permutation(len(pairs))]
    rows = torch.tensor([(u, users + i) for u, i in pairs])
    erased = torch.from_numpy(rng.random(len(pairs)) < 0.1)
    loser = int(rows[rng.integers(len(pairs)), 0])
    erased |= rows[:, 0] == (loser if loser != 0 else 1)
    return Case(
        sizes=(users, items),
        pairs=rows,
        label=torch.from_numpy(rng.integers(0, 2, len(pairs)).astype(np.float64)),
        erased=erased,
        embeddings=torch.from_numpy(rng.normal(size=(users + items, 3))),
        layer_weights=layer_weights,
        l2=l2,
        partitions=partitions,
        l2_row=l2_row,
    )


CASES = [
    random_case(1, users=7, items=6, examples=15, layer_weights=(1.0,), l2=0.0, partitions=4),
    random_case(2, users=9, items=5, examples=20, layer_weights=(1.0,), l2=0.1, partitions=23),
    random_case(3, users=3, items=9, examples=8, layer_weights=(1.0,), l2=0.02, partitions=3, l2_row=0.3),
    random_case(4, users=7, items=6, examples=15, layer_weights=(0.5, 0.5), l2=0.0, partitions=4),
    random_case(5, users=9, items=5, examples=20, layer_weights=(0.5, 0.5), l2=0.1, partitions=23),
    random_case(
        6, users=6, items=6, examples=14, layer_weights=(1 / 3, 1 / 3, 1 / 3), l2=0.05, partitions=2, l2_row=0.2
    ),
]
