"""Which rows a batch moves: the erased endpoints always, then others by importance.

- ``degree`` is the paper's (arXiv 2307.02147, section 4.2): s_v = erased(v) / deg(v) at the endpoints, and one hop
  further s_w = sum over the edges (w, v) of s_v / deg(w). Unlike its released code, no endpoint is ever pruned.
- ``step`` is the length of the step that a row would take on its own, ||(diag H_vv + Lambda_v)^-1 r_v||, after the rows
  selected so far have moved.

Ties go to the lower global row, so that any number of workers selects the same rows.
"""

import math

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.objective import Outside
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.shard import Shard, row_totals


def endpoints(shard: Shard, lost: Tensor) -> tuple[Tensor, Tensor]:
    """Own rows that lose some examples but keep others, and own rows that lose all they had.

    Args:
        shard: This worker's rows.
        lost: (n,) edges that they lose.

    Returns:
        Two masks (n,).
    """
    return (lost > 0) & (lost < shard.degrees), (lost > 0) & (lost == shard.degrees)


def select_by_degree(
    problem: Problem,
    *,
    hops: int,
    quantile: float,
    row_budget: float,
) -> Tensor:
    """Mask (n,) of the own rows that the batch moves, by the paper's importance.

    Args:
        problem: The batch. All workers make this call together.
        hops: How far from the endpoints rows may lie.
        quantile: The share of the rows reached, the least important ones, that stays out.
        row_budget: Rows over all workers at most; the endpoints are in even when they are more.
    """
    shard, communicator = problem.shard, problem.communicator
    selected, emptied = endpoints(shard, problem.lost)
    degrees = shard.degrees.double().clamp(min=1)
    importance = problem.lost.double() / degrees
    reached = selected | emptied
    for _ in range(hops):
        fresh = _neighbours(problem, reached) & ~reached
        block = problem.block(torch.nonzero(fresh).flatten())
        arriving = communicator.gather_rows(block.plan, (importance * reached)[:, None].contiguous())
        sums = row_totals(block.indptr, arriving[block.cols, 0].sum(dim=1))
        importance[block.positions] = sums / degrees[block.positions]
        reached |= fresh
    chosen = torch.nonzero(reached & ~selected & ~emptied & (importance > 0)).flatten()
    ranked = _ranked(shard, chosen, importance[chosen], torch.zeros_like(importance[chosen]), communicator)
    out = math.floor(quantile * len(ranked) + 1e-9)  # 0.7 * 10 is a little less than 7 in floating point
    room = min(row_budget - _total(selected, communicator), len(ranked) - out)
    return selected | _mask(shard, ranked[: int(max(0, room)), 1].long(), communicator)


def select_by_step(
    shard: Shard,
    selected: Tensor,
    outside: Outside,
    damping: Tensor,
    communicator: Communicator,
    *,
    allowed_norm: float,
    row_budget: float,
) -> Tensor:
    """Mask (n,) of the own rows of the next round: the selected ones, and the most important ones outside.

    As many enter as it takes to bring the residual on the rest under the allowed norm, but at most as many as are
    selected already (importance changes as rows move), and none past the budget.

    Args:
        shard: This worker's rows.
        selected: (n,) bool: rows of the rounds before.
        outside: What is left of the influence on the other rows.
        damping: (n,) Lambda of the own rows.
        communicator: All workers make this call together.
        allowed_norm: ||r|| that may be left on rows which are not selected.
        row_budget: Rows over all workers at most.
    """
    curvature = outside.diagonal() + damping[outside.positions][:, None]
    step = outside.residual / torch.where(curvature > 0, curvature, 1.0)
    norm2 = outside.residual.square().sum(1)
    ranked = _ranked(shard, outside.positions, step.norm(dim=1), norm2, communicator)
    left2 = ranked[:, 2].flip(0).cumsum(0).flip(0)  # of each row and all less important ones
    needed = int((left2 > allowed_norm**2).sum())
    count = _total(selected, communicator)
    room = min(needed, max(count, 1), row_budget - count)
    return selected | _mask(shard, ranked[: int(max(0, room)), 1].long(), communicator)


def _neighbours(problem: Problem, reached: Tensor) -> Tensor:
    """Mask (n,) of the own rows that are far ends of any worker's reached rows."""
    block = problem.block(torch.nonzero(reached).flatten())
    mask = torch.zeros_like(reached)
    mask[block.plan.send] = True
    return mask


def _ranked(shard: Shard, positions: Tensor, importance: Tensor, value: Tensor, communicator: Communicator) -> Tensor:
    """All workers' candidates (k, 3) as importance, global row and a value, the most important first."""
    mine = torch.stack([importance, shard.rows[positions].double(), value], dim=1)
    everyone = communicator.all_gather(mine)
    by_row = everyone[torch.sort(everyone[:, 1]).indices]
    return by_row[torch.sort(by_row[:, 0], descending=True, stable=True).indices]


def _mask(shard: Shard, rows: Tensor, communicator: Communicator) -> Tensor:
    """Mask (n,) of the own rows among global rows."""
    mask = torch.zeros(len(shard.rows), dtype=torch.bool, device=rows.device)
    own = rows[communicator.ownership.rank[rows] == communicator.rank]
    mask[communicator.ownership.position[own]] = True
    return mask


def _total(mask: Tensor, communicator: Communicator) -> int:
    """Rows of a mask over all workers."""
    return int(communicator.all_reduce(mask.sum().double()[None]).item())
