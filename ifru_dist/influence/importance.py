"""Which rows a batch moves: the erased endpoints always, then the rows near them by importance.

Importance is that of the paper (arXiv 2307.02147, section 4.2): s_v = erased(v) / deg(v) at the endpoints, and one hop
further s_w = sum over the edges (w, v) of s_v / deg(w). Unlike its released code, an endpoint is never pruned.
"""

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.shard import Shard, make_block, row_counts


def endpoints(shard: Shard, erased: Tensor) -> tuple[Tensor, Tensor]:
    """Own rows that lose some examples but keep others, and own rows that lose all they had.

    Args:
        shard: This worker's rows.
        erased: (e,) bool over the shard's edges.

    Returns:
        Two masks (n,).
    """
    lost = row_counts(shard.indptr, erased)
    return (lost > 0) & (lost < shard.degrees), (lost > 0) & (lost == shard.degrees)


def select_rows(
    shard: Shard,
    erased: Tensor,
    communicator: Communicator,
    kernels: Kernels,
    *,
    hops: int,
    row_budget: int,
) -> Tensor:
    """Mask (n,) of the own rows that the batch moves.

    Args:
        shard: This worker's rows.
        erased: (e,) bool over the shard's edges.
        communicator: All workers make this call together.
        kernels: Edge loops.
        hops: How far from the endpoints rows may lie.
        row_budget: Rows over all workers at most; the endpoints are in even when they are more.
    """
    selected, emptied = endpoints(shard, erased)
    degrees = shard.degrees.double().clamp(min=1)
    importance = row_counts(shard.indptr, erased).double() / degrees
    reached = selected | emptied
    for _ in range(hops):
        fresh = _neighbours(shard, erased, reached, communicator) & ~reached
        block = make_block(shard, erased, torch.nonzero(fresh).flatten(), communicator)
        arriving = communicator.gather_rows(block.plan, (importance * reached)[:, None].contiguous())
        sums = kernels.weighted_sum(block.indptr, block.col, torch.ones_like(block.label), arriving)[:, 0]
        importance[block.positions] = sums / degrees[block.positions]
        reached |= fresh
    candidates = reached & ~selected & ~emptied & (importance > 0)
    return selected | _best(shard, candidates, importance, selected, communicator, row_budget)


def _neighbours(shard: Shard, erased: Tensor, reached: Tensor, communicator: Communicator) -> Tensor:
    """Mask (n,) of the own rows that are far ends of any worker's reached rows."""
    block = make_block(shard, erased, torch.nonzero(reached).flatten(), communicator)
    mask = torch.zeros_like(reached)
    mask[block.plan.send] = True
    return mask


def _best(
    shard: Shard,
    candidates: Tensor,
    importance: Tensor,
    selected: Tensor,
    communicator: Communicator,
    row_budget: int,
) -> Tensor:
    """Mask (n,) of the most important candidates within the budget; ties go to the lower global row."""
    count = communicator.all_reduce(selected.sum().double()[None])
    room = max(0, row_budget - int(count.item()))
    chosen = torch.nonzero(candidates).flatten()
    mine = torch.stack([importance[chosen], shard.rows[chosen].double()], dim=1)
    everyone = communicator.all_gather(mine)
    by_row = everyone[torch.sort(everyone[:, 1]).indices]
    best = by_row[torch.sort(by_row[:, 0], descending=True, stable=True).indices[:room], 1].long()
    mask = torch.zeros_like(candidates)
    own = best[communicator.ownership.rank[best] == communicator.rank]
    mask[communicator.ownership.position[own]] = True
    return mask
