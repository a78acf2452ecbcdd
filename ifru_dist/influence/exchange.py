"""What of a batch's blocks travels while it is solved: only the far ends that move."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator, GatherPlan
from ifru_dist.influence.shard import Block, Shard, index_of


@dataclass(frozen=True)
class MovingExchange:
    """The exchange of a block's far ends that move."""

    plan: GatherPlan
    """What leaves is counted among the selected rows, so that a vector (m, d) on them can be sent as it is."""
    index: Tensor
    """(e, a - 1) index of each far end among what arrives, -1 where it does not move."""
    halo: Tensor
    """(k,) where what arrives stands among the block's far ends."""


def moving_mask(shard: Shard, positions: Tensor, communicator: Communicator) -> Tensor:
    """(N,) bool over global rows: what any worker selects, each at its positions (m,)."""
    moves = torch.zeros(len(communicator.ownership.rank), dtype=torch.bool, device=positions.device)
    moves[communicator.all_gather(shard.rows[positions])] = True
    return moves


def moving_exchange(
    block: Block, positions: Tensor, moves: Tensor, shard: Shard, communicator: Communicator
) -> MovingExchange:
    """The exchange for selected positions (m,) of the shard and the mask (N,) of all that move.

    It is a part of the block's, and every worker knows which: nothing has to be agreed upon.
    """
    arriving = block.plan.rows
    plan = _part(block.plan, moves[shard.rows[block.plan.send]], moves[arriving])
    among_selected = index_of(positions, len(shard.rows))
    index = index_of(plan.rows, len(moves))
    halo = torch.nonzero(moves[arriving]).flatten()
    return MovingExchange(replace(plan, send=among_selected[plan.send]), index[arriving][block.cols], halo)


def _part(plan: GatherPlan, leaves: Tensor, arrives: Tensor) -> GatherPlan:
    """The part of a plan that masks of what leaves (m,) and of what arrives (h,) select, alike on both sides."""
    send, receive = (
        tuple(int(part.sum()) for part in torch.split(mask, list(counts)))
        for mask, counts in ((leaves, plan.send_counts), (arrives, plan.receive_counts))
    )
    return GatherPlan(plan.rows[arrives], plan.send[leaves], send, receive)
