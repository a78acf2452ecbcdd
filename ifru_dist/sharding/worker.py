"""One worker's share of a workspace, without Ray: load the partitions, find what requests name, solve a batch."""

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifru_dist.errors import WorkspaceError
from ifru_dist.influence.communicator import Communicator, LocalCommunicator
from ifru_dist.influence.kernels import kernels_for
from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.outcome import Outcome
from ifru_dist.influence.problem import Problem
from ifru_dist.influence.shard import Shard
from ifru_dist.influence.update import Batch
from ifru_dist.models.checking import check_score
from ifru_dist.models.factory import build_model
from ifru_dist.sharding.communicator import GangCommunicator
from ifru_dist.sharding.loading import MappedEdges, load_shard, worker_ownership
from ifru_dist.sharding.memory import keep_freed_memory, settle_objects
from ifru_dist.sharding.mesh import Mesh, join_mesh
from ifru_dist.sharding.placement import assign_partitions
from ifru_dist.sharding.probing import CountedCommunicator, ExchangeProbe, Usage, probe_exchanges
from ifru_dist.sharding.process_group import join_group
from ifru_dist.workspace.manifest import ModelRecord
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What a worker needs to know to take its place in a gang."""

    workspace: Path
    version: int
    digest: str
    """SHA-256 of the version's manifest: a worker must see the coordinator's workspace, not another of that name."""
    owned: tuple[tuple[int, ...], ...]
    """Partitions of every worker, by rank."""
    rank: int
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """Of each worker; results do not depend on their number."""
    timeout_s: float
    """How long a collective waits for a silent peer."""
    model: ModelRecord | None = None
    """A model that takes the place of the version's own, and is in no version yet."""

    @property
    def world_size(self) -> int:
        """Workers in the gang."""
        return len(self.owned)

    @classmethod
    def for_version(
        cls, version: Version, workers: int, *, device: str = "cpu", threads: int = 1, timeout_s: float = 30
    ) -> Self:
        """The plan of rank 0, with the partitions spread over the workers by their edges."""
        owned = assign_partitions(version.partition_edges(), workers)
        return cls(
            workspace=version.workspace.root,
            version=version.manifest.version,
            digest=version.workspace.digest(version.manifest.version),
            owned=tuple(tuple(partitions) for partitions in owned),
            rank=0,
            device=device,
            threads=threads,
            timeout_s=timeout_s,
            model=version.model if version.lent else None,
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a batch of requests names, as global rows; -1 where a part is not named."""

    user: NDArray[np.int64]
    """(requests,) user row, or -1 for a whole item."""
    item: NDArray[np.int64]
    """(requests,) item row, or -1 for a whole user."""


@dataclass(frozen=True)
class Found:
    """The examples of the requests whose first named row this worker owns."""

    request: NDArray[np.int64]
    """(found,) position of the request."""
    example: NDArray[np.int64]
    """(found,) id of the example."""
    rows: NDArray[np.int64]
    """(found, fields) global rows of the example."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a committed batch changed, for workers that held the version before."""

    version: int
    """The version that the batch made."""
    digest: str
    """SHA-256 of its manifest."""
    examples: NDArray[np.int64]
    """Ids of the erased examples."""
    touched: NDArray[np.int64]
    """Global rows of these examples."""
    rows: NDArray[np.int64]
    """Global rows with new embeddings, ascending."""
    values: NDArray[np.float32]
    """(rows, d) these embeddings."""


class Worker:
    """The rows of a worker's partitions and the edges at them, for one version."""

    def __init__(self, plan: WorkerPlan) -> None:
        """Load the worker's partitions of the planned version.

        Raises:
            WorkspaceError: this node does not see the coordinator's workspace, or a file of it is damaged.
        """
        torch.set_num_threads(1)  # its threads spin while they wait, which stops everything where cores are busy
        keep_freed_memory()
        self.plan = plan
        self.device = torch.device(plan.device)
        self._version = version = _open_shared(plan)
        self._layout = version.layout
        self._model = build_model(version.model.spec)
        self._n_examples = version.manifest.n_examples
        self._incidence = version.mapped_incidence(self._partitions)
        self._ownership = worker_ownership(version, self._model, plan.owned, self.device)
        embeddings = torch.from_numpy(version.embeddings_of(self._partitions))
        dense = {name: torch.from_numpy(part) for name, part in version.dense().items()}
        check_score(self._model, embeddings.shape[1], dense)
        self._shard = self._loaded(version, embeddings)
        self._kernels = kernels_for(self.device, plan.threads)
        self._communicator: Communicator | None = None
        self._mesh: Mesh | None = None
        self._prepared: tuple[Batch, SolveOptions] | None = None
        settle_objects()

    def connect(self, address: str, secret: str) -> None:
        """Meet the other workers of the gang, who know the same secret, at ``host:port``; one that is alone meets none.

        On GPUs they meet by torch's own means, which know no secret.
        """
        rank, world_size, timeout_s = self.plan.rank, self.plan.world_size, self.plan.timeout_s
        if self._mesh is not None:
            self._mesh.close()
        if world_size == 1:
            self._communicator = LocalCommunicator(self._shard.rows)
        elif self.device.type == "cpu":
            self._mesh = join_mesh(address, secret, rank, world_size, timeout_s)
            self._communicator = GangCommunicator(self._ownership, self._mesh)
        else:
            group = join_group(address, rank, world_size, self.device, timeout_s)
            self._communicator = GangCommunicator(self._ownership, group)

    def advance(self, change: Change) -> None:
        """Hold the version that a batch made which these workers solved, to the same bits as if it had been loaded.

        Embeddings change in place and erased examples are left out from now on: no table is read. Only models that draw
        negatives or have parameters beside the rows are loaded anew.

        Raises:
            WorkspaceError: this node does not see the version.
        """
        self.plan = replace(self.plan, version=change.version, digest=change.digest)
        self._version = version = _open_shared(self.plan, after=self._version)
        if len(change.examples) + len(change.rows) == 0:
            return
        touched = self._own(change.touched)
        touched = torch.unique(touched[touched >= 0])
        self._incidence.erase(change.examples, touched.cpu().numpy())
        rows, values = self._own(change.rows), torch.from_numpy(change.values)
        own, values = rows[rows >= 0], values[rows >= 0].to(self.device)
        self._shard.embeddings[own] = values
        if not isinstance(self._shard.edges, MappedEdges) or self._shard.dense is not None:
            self._shard = self._loaded(version, self._shard.embeddings[: len(self._incidence.rows)].cpu())
            return
        self._shard.edges.recount(touched)
        if self._shard.graph is not None:
            erased = self._mask(change.examples)
            self._shard = replace(self._shard, graph=self._shard.graph.only(~erased[self._shard.graph.example]))

    def _own(self, rows: NDArray[np.int64]) -> Tensor:
        """(k,) positions of global rows (k,) in the shard, -1 where they are another worker's."""
        wanted = torch.from_numpy(rows).to(self.device)
        position = self._ownership.position.index_select(0, wanted)
        return torch.where(self._ownership.rank.index_select(0, wanted) == self.plan.rank, position, -1)

    @property
    def _partitions(self) -> tuple[int, ...]:
        """Those of this worker."""
        return self.plan.owned[self.plan.rank]

    def _loaded(self, version: Version, embeddings: Tensor) -> Shard:
        """The shard of a version from the embeddings of its rows and its incidence."""
        last = self.plan.rank == self.plan.world_size - 1
        return load_shard(version, self._incidence, embeddings, self._model, self.device, holds_dense=last)

    def process_id(self) -> int:
        """Id of the worker's process on its host."""
        return os.getpid()

    def usage(self) -> Usage:
        """What this process has used so far; exchanges are counted from the first call on."""
        return self._counted().usage(self.device)

    def probe_exchanges(self) -> ExchangeProbe:
        """How quick exchanges with the other workers are, all of which make this call together."""
        return probe_exchanges(self._counted(), self.device)

    def _counted(self) -> CountedCommunicator:
        """The communicator, which counts from now on."""
        if self._communicator is None:
            raise RuntimeError("exchanges were to be counted before connect")
        if not isinstance(self._communicator, CountedCommunicator):
            self._communicator = CountedCommunicator(self._communicator)
        return self._communicator

    def find(self, targets: Targets) -> Found:
        """The examples that requests name, each found by the owner of the user's row (of the item's, for a whole item).

        The edges of the named rows are sorted once, and each request is a range of them, so the cost does not grow with
        requests times degree when many requests name one row.
        """
        size = self._layout.n_rows
        anchor = np.where(targets.user >= 0, targets.user, targets.item)
        position = np.full(len(anchor), -1)
        position[anchor >= 0] = self._own(anchor[anchor >= 0]).cpu().numpy()
        mine = np.flatnonzero(position >= 0)
        named = np.unique(position[mine])
        edges = self._incidence.of(named)
        near = np.repeat(named, edges.degrees)
        # Users and items are the first tables: seen from either, the other one comes first.
        order = np.argsort(near * size + edges.others[:, 0], kind="stable")
        keys = (near * size + edges.others[:, 0])[order]
        whole = (targets.user[mine] < 0) | (targets.item[mine] < 0)
        first = position[mine] * size + np.where(whole, 0, targets.item[mine])
        start = np.searchsorted(keys, first)
        counts = np.searchsorted(keys, first + np.where(whole, size, 1)) - start
        found = order[np.repeat(start - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
        request = np.repeat(mine, counts)
        rows = np.concatenate([anchor[request][:, None], edges.others[found]], axis=1)
        swapped = targets.user[request] < 0
        rows[swapped, :2] = rows[swapped, 1::-1]
        return Found(request, edges.example[found], rows)

    def solve(
        self, examples: NDArray[np.int64], options: SolveOptions, rows: NDArray[np.int64] | None = None
    ) -> Outcome:
        """Erase examples (by id): the whole solve, with all workers of the gang at once.

        Where their global rows (examples, fields) are known, no edges are searched for them.
        """
        self.prepare(examples, options, rows)
        outcome = self.solve_prepared(options.damping)
        self._prepared = None
        return outcome

    def prepare(
        self, examples: NDArray[np.int64], options: SolveOptions, rows: NDArray[np.int64] | None = None
    ) -> None:
        """Prepare to erase examples (by id): what does not depend on the damping, kept until the next ``prepare``."""
        self._prepared = None  # the memory of a batch before, if there was one
        self._prepared = self._batch(examples, rows, options), options

    def solve_prepared(self, damping: float) -> Outcome:
        """Solve the prepared batch with a c that takes the place of ``options.damping``, from the model as it is.

        Any number of dampings may follow each other, and each gives the bits of a batch of its own.
        """
        if self._prepared is None:
            raise RuntimeError("a batch was to be solved before prepare")
        batch, options = self._prepared
        outcome = batch.solve(damping)
        return _on_host(outcome, options.storage_dtype)

    def _batch(self, examples: NDArray[np.int64], rows: NDArray[np.int64] | None, options: SolveOptions) -> Batch:
        """The batch that erases examples (by id), whose global rows may be known."""
        if self._communicator is None:
            raise RuntimeError("a batch was to be solved before connect")
        partitions = self._layout.partitions + (self._shard.dense is not None)
        erased = self._mask(examples)
        problem = Problem(
            shard=self._shard,
            erased=erased,
            lost=self._lost(erased, rows),
            model=self._model,
            communicator=self._communicator,
            kernels=self._kernels,
            options=options,
        )
        return Batch(problem, partitions)

    def _mask(self, examples: NDArray[np.int64]) -> Tensor:
        """Bool over example ids: some of them."""
        mask = torch.from_numpy(np.zeros(self._n_examples, dtype=bool)).to(self.device)  # zeros that cost no pass
        mask[torch.from_numpy(examples).to(self.device)] = True
        return mask

    def _lost(self, erased: Tensor, rows: NDArray[np.int64] | None) -> Tensor:
        """(n,) edges that own rows lose; where several edges may share an example, all of them are read for it."""
        if rows is None or self._model.sampled_negatives:
            return self._shard.lost(erased)
        own = self._own(rows.flatten())
        return torch.bincount(own[own >= 0], minlength=len(self._shard.rows))


def _on_host(outcome: Outcome, dtype: torch.dtype) -> Outcome:
    """An outcome in the host's memory (the coordinator may have no GPU), its values in the type they are rounded to."""
    values = outcome.values.to("cpu", dtype)
    dense = {name: part.to("cpu", dtype) for name, part in outcome.dense.items()}
    return replace(outcome, rows=outcome.rows.cpu(), values=values, emptied=outcome.emptied.cpu(), dense=dense)


def _open_shared(plan: WorkerPlan, after: Version | None = None) -> Version:
    """The planned version, checked to be the coordinator's; ``after`` as in ``open_version``."""
    workspace = Workspace(plan.workspace) if after is None else after.workspace
    if not workspace.has(plan.version) or workspace.digest(plan.version) != plan.digest:
        raise WorkspaceError(
            f"host {socket.gethostname()} does not see version {plan.version} of {plan.workspace} as the coordinator "
            "does: put the workspace on a file system that all nodes share, under the same path"
        )
    version = open_version(workspace, plan.version, after=after)
    if plan.model is None:
        return version
    version = version.with_model(plan.model)
    workspace.verify(version.manifest, content=False)
    return version
