"""Reading fewer examples for a curvature product, so that hubs cannot make it as expensive as they please.

An example is read with a probability and then counts 1 / probability, at all of its rows alike: the matrix stays
symmetric and positive semi-definite, and is right in the mean. The probability is 1 for an example of any moving row
with at most ``cap`` examples, and falls as cap / degree where all its moving rows are hubs.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.shard import Block, only_edges

_SALT = 0x632BE59BD9B4E01


def uniform(example: Tensor) -> Tensor:
    """A number in [0, 1) for each example id (e,), the same whoever asks: multiplicative hashing, twice mixed."""
    mixed = (example * 0x9E3779B97F4A7C1 + _SALT) & 0x7FFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 29)) * 0x94D049BB133111B) & 0x7FFFFFFFFFFFFFFF
    return (mixed >> 11).double() / float(1 << 52)


def within_budget(
    block: Block, degrees: Tensor, moves: Tensor, communicator: Communicator, budget: int | None
) -> tuple[Block, Tensor]:
    """The edges of a block of moving rows that products read, and which of the block's edges (e,) bool these are.

    Args:
        block: the moving rows with all their edges; its exchange is kept.
        degrees: (n,) edges of all own rows.
        moves: (N,) bool over global rows: the moving rows of all workers.
        communicator: all workers make this call together.
        budget: edges that all workers together may read; None: all. At least one edge of every row is allowed for.
    """
    arity = 1 + block.cols.shape[1]
    cap = _cap(degrees[block.positions], arity, communicator, budget)
    if cap is None:
        return block, torch.ones_like(block.erased)
    far_degree = communicator.gather_rows(block.plan, degrees[:, None].double())[:, 0]
    far_share = torch.where(moves[block.plan.rows], (cap / far_degree).clamp(max=1.0), 0.0)
    near = torch.repeat_interleave(cap / degrees[block.positions].double(), torch.diff(block.indptr))
    probability = torch.maximum(near.clamp(max=1.0), far_share[block.cols].max(dim=1).values)
    read = uniform(block.example) < probability
    chosen = only_edges(block, read)
    return replace(chosen, weight=chosen.factor / probability[read]), read


def _cap(degrees: Tensor, arity: int, communicator: Communicator, budget: int | None) -> float | None:
    """The largest cap with which the edges stay within the budget in the mean; None where all of them do.

    An example of hubs and a small row is read at all of them, so the small rows' edges count ``arity`` times.
    """

    def edges(cap: float) -> float:
        return float(communicator.all_reduce(degrees.double().clamp(max=cap).sum()[None]).item())

    if budget is None or edges(float("inf")) <= budget:
        return None
    low, high = 1, 1 << 40
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if arity * edges(middle) <= budget else (low, middle)
    return float(low)
