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
from ifru_dist.influence.shard import Shard, edges_of
from ifru_dist.influence.update import Batch
from ifru_dist.models.checking import check_score
from ifru_dist.models.factory import build_model
from ifru_dist.sharding.communicator import GangCommunicator, join_group
from ifru_dist.sharding.loading import load_shard, on_device, worker_ownership
from ifru_dist.sharding.memory import keep_freed_memory, settle_objects
from ifru_dist.sharding.placement import assign_partitions
from ifru_dist.sharding.probing import CountedCommunicator, ExchangeProbe, Usage, probe_exchanges
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
    pairs: NDArray[np.int64]
    """(found, 2) global user and item row of the example."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a committed batch changed, for workers that held the version before."""

    version: int
    """The version that the batch made."""
    digest: str
    """SHA-256 of its manifest."""
    examples: NDArray[np.int64]
    """Ids of the erased examples."""
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
        version = _open_shared(plan)
        self._layout = version.layout
        self._model = build_model(version.model.spec)
        self._n_examples = version.manifest.n_examples
        self._incidence = version.incidence_of(self._partitions)
        embeddings = torch.from_numpy(version.embeddings_of(self._partitions))
        dense = {name: torch.from_numpy(part) for name, part in version.dense().items()}
        check_score(self._model, embeddings.shape[1], dense)
        self._shard = self._loaded(version, embeddings)
        self._ownership = worker_ownership(version, self._model, plan.owned, self.device)
        self._kernels = kernels_for(self.device, plan.threads)
        self._communicator: Communicator | None = None
        self._prepared: tuple[Batch, SolveOptions] | None = None
        self._outputs: Tensor | None = None
        settle_objects()

    def connect(self, address: str) -> None:
        """Join the gang's process group at ``host:port``; a gang of one needs none."""
        if self.plan.world_size == 1:
            self._communicator = LocalCommunicator(self._shard.rows)
            return
        join_group(address, self.plan.rank, self.plan.world_size, self.device, self.plan.timeout_s)
        self._communicator = GangCommunicator(self._ownership, self.device)

    def advance(self, change: Change) -> None:
        """Hold the version that a batch made which these workers solved, to the same bits as if it had been loaded.

        Embeddings change in place, erased examples drop out, and the outputs of a graph model are those that the solve
        ended with: nothing is read of the tables and the graph.

        Raises:
            WorkspaceError: this node does not see the version.
        """
        self.plan = replace(self.plan, version=change.version, digest=change.digest)
        version, rows = _open_shared(self.plan), self._incidence.rows
        if len(change.examples) + len(change.rows) == 0:
            return
        goes = np.zeros(self._n_examples, dtype=bool)
        goes[change.examples] = True
        self._incidence = self._incidence.keep_edges(~goes[self._incidence.example])
        position = _positions(rows, change.rows, self._layout.n_rows)
        own = torch.from_numpy(position[position >= 0]).to(self.device)
        values = torch.from_numpy(change.values[position >= 0]).to(self.device)
        embeddings = self._shard.embeddings[: len(rows)].clone()
        embeddings[own] = values
        outputs, self._outputs = self._outputs, None
        self._shard = self._loaded(version, embeddings.cpu())
        if outputs is not None:
            alone = torch.diff(self._shard.graph.indptr)[own] == 0 if self._shard.graph else own < 0
            outputs[own[alone]] = self._model.layer_weights[0] * values[alone].double()  # rows that were reset
            self._shard = replace(self._shard, outputs=outputs)

    @property
    def _partitions(self) -> tuple[int, ...]:
        """Those of this worker."""
        return self.plan.owned[self.plan.rank]

    def _loaded(self, version: Version, embeddings: Tensor) -> Shard:
        """The shard of a version from the embeddings of its rows and its incidence."""
        last = self.plan.rank == self.plan.world_size - 1
        shard = load_shard(version, self._incidence, embeddings, self._model, holds_dense=last)
        return on_device(shard, self.device)

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
        size, incidence = self._layout.n_rows, self._incidence
        anchor = np.where(targets.user >= 0, targets.user, targets.item)
        position = _positions(incidence.rows, anchor, size)
        mine = np.flatnonzero(position >= 0)
        named = np.unique(position[mine])
        indptr, edges = (part.numpy() for part in edges_of(torch.from_numpy(incidence.indptr), torch.from_numpy(named)))
        near = np.repeat(named, np.diff(indptr))
        # Users and items are the first tables: seen from either, the other one comes first.
        far, example = incidence.others[edges, 0], incidence.example[edges]
        order = np.argsort(near * size + far, kind="stable")
        keys = (near * size + far)[order]
        whole = (targets.user[mine] < 0) | (targets.item[mine] < 0)
        first = position[mine] * size + np.where(whole, 0, targets.item[mine])
        start = np.searchsorted(keys, first)
        counts = np.searchsorted(keys, first + np.where(whole, size, 1)) - start
        found = order[np.repeat(start - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
        request = np.repeat(mine, counts)
        pairs = np.stack([anchor[request], far[found]], axis=1)
        pairs = np.where((targets.user[request] < 0)[:, None], pairs[:, ::-1], pairs)
        return Found(request, example[found], pairs)

    def solve(
        self, examples: NDArray[np.int64], options: SolveOptions, pairs: NDArray[np.int64] | None = None
    ) -> Outcome:
        """Erase examples (by id): the whole solve, with all workers of the gang at once.

        Where their global rows (examples, 2) are known, no other rows' edges are searched for them.
        """
        self.prepare(examples, options, pairs)
        outcome = self.solve_prepared(options.damping)
        self._prepared = None
        return outcome

    def prepare(
        self, examples: NDArray[np.int64], options: SolveOptions, pairs: NDArray[np.int64] | None = None
    ) -> None:
        """Prepare to erase examples (by id): what does not depend on the damping, kept until the next ``prepare``."""
        self._prepared = None  # the memory of a batch before, if there was one
        self._prepared = self._batch(self._erased(examples, pairs), options), options

    def solve_prepared(self, damping: float) -> Outcome:
        """Solve the prepared batch with a c that takes the place of ``options.damping``, from the model as it is.

        Any number of dampings may follow each other, and each gives the bits of a batch of its own.
        """
        if self._prepared is None:
            raise RuntimeError("a batch was to be solved before prepare")
        batch, options = self._prepared
        outcome = batch.solve(damping)
        self._outputs = batch.outputs
        return _on_host(outcome, options.storage_dtype)

    def _erased(self, examples: NDArray[np.int64], pairs: NDArray[np.int64] | None) -> Tensor:
        """Mask (e,) of the edges of examples (by id)."""
        shard = self._shard
        if pairs is None or shard.others.shape[1] > 1:
            goes = torch.zeros(self._n_examples, dtype=torch.bool, device=self.device)
            goes[torch.from_numpy(examples).to(self.device)] = True
            return goes[shard.example]
        touched = _positions(self._incidence.rows, np.unique(pairs), self._layout.n_rows)
        _, edges = edges_of(shard.indptr, torch.from_numpy(touched[touched >= 0]).sort().values.to(self.device))
        gone = torch.isin(shard.example[edges], torch.from_numpy(examples).to(self.device))
        erased = torch.from_numpy(np.zeros(len(shard.example), dtype=bool)).to(self.device)  # zeros that cost no pass
        erased[edges[gone]] = True
        return erased

    def _batch(self, erased: Tensor, options: SolveOptions) -> Batch:
        """The batch that erases examples, whose edges (e,) bool mark."""
        if self._communicator is None:
            raise RuntimeError("a batch was to be solved before connect")
        partitions = self._layout.partitions + (self._shard.dense is not None)
        problem = Problem(
            shard=self._shard,
            erased=erased,
            model=self._model,
            communicator=self._communicator,
            kernels=self._kernels,
            options=options,
        )
        return Batch(problem, partitions)


def _on_host(outcome: Outcome, dtype: torch.dtype) -> Outcome:
    """An outcome in the host's memory (the coordinator may have no GPU), its values in the type they are rounded to."""
    values = outcome.values.to("cpu", dtype)
    dense = {name: part.to("cpu", dtype) for name, part in outcome.dense.items()}
    return replace(outcome, rows=outcome.rows.cpu(), values=values, emptied=outcome.emptied.cpu(), dense=dense)


def _open_shared(plan: WorkerPlan) -> Version:
    """The planned version, checked to be the coordinator's."""
    workspace = Workspace(plan.workspace)
    if plan.version not in workspace.versions() or workspace.digest(plan.version) != plan.digest:
        raise WorkspaceError(
            f"host {socket.gethostname()} does not see version {plan.version} of {plan.workspace} as the coordinator "
            "does: put the workspace on a file system that all nodes share, under the same path"
        )
    version = open_version(workspace, plan.version)
    if plan.model is None:
        return version
    version = version.with_model(plan.model)
    workspace.verify(version.manifest, content=False)
    return version


def _positions(rows: NDArray[np.int64], wanted: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Position of each wanted global row among ``rows``, -1 where it is absent or -1 itself."""
    index = np.full(n_rows + 1, -1, dtype=np.int64)  # the last entry serves the wanted value -1
    index[rows] = np.arange(len(rows))
    return index[wanted]
