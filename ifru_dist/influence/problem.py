"""One batch on one worker, before it is said which rows move."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ifru_dist.influence.communicator import Communicator
from ifru_dist.influence.dot_terms import DotTerms
from ifru_dist.influence.kernels import Kernels
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.shard import Block, EdgeRun, Shard, make_block
from ifru_dist.influence.terms import Terms
from ifru_dist.influence.tuple_terms import TupleTerms
from ifru_dist.models.base import Model
from ifru_dist.models.losses import Loss, tempered


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What goes from which rows, and what it is computed with. All workers make the same calls."""

    shard: Shard
    """This worker's rows (n) before the batch, and their edges."""
    erased: Tensor
    """Bool over example ids: those that go."""
    lost: Tensor
    """(n,) int64: edges of each own row whose examples go."""
    model: Model
    """Score, loss and regularisers."""
    communicator: Communicator
    """Exchanges with the other workers."""
    kernels: Kernels
    """Edge loops."""
    options: SolveOptions
    """How to solve."""

    @property
    def loss(self) -> Loss:
        """The loss at the options' temperature."""
        return tempered(self.model.loss, self.options.temperature)

    @property
    def all_rows(self) -> Tensor:
        """(n,) positions of all own rows."""
        return torch.arange(len(self.shard.rows), device=self.erased.device)

    def block(self, positions: Tensor, run: EdgeRun | None = None) -> Block:
        """The own rows at some positions (m,), with all their edges or the wanted ones of them."""
        return make_block(self.shard, self.erased, positions, self.communicator, run)

    def terms(self, block: Block) -> Terms:
        """The losses of a block's examples."""
        return self._terms(block, self.loss)

    def untempered_terms(self, block: Block) -> Terms:
        """The losses as the model was trained with them."""
        return self._terms(block, self.model.loss)

    def _terms(self, block: Block, loss: Loss) -> Terms:
        """Closed forms where the score is made of dot products, torch.func for any other."""
        if self.model.dot_product:
            return DotTerms(block, loss, self.kernels)
        if self.model.sampled_negatives and self.model.scorer.dot_product and block.label.device.type == "cpu":
            # Imported here: a worker with a GPU has no use for the compiler.
            from ifru_dist.influence.pairwise_terms import PairwiseTerms

            return PairwiseTerms(block, loss)
        return TupleTerms(block, self.model, loss)
