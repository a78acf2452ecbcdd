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
    """Agree on the exchange for selected positions (m,) of the shard and the mask (N,) of all that move."""
    arriving = block.plan.rows
    plan = communicator.plan(arriving[moves[arriving]])
    among_selected = index_of(positions, len(shard.rows))
    index = index_of(plan.rows, len(moves))
    halo = index_of(block.plan.rows, len(moves))[plan.rows]
    return MovingExchange(replace(plan, send=among_selected[plan.send]), index[arriving][block.cols], halo)
