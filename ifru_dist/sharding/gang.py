"""The gang: Ray actors that solve together, torn down as a whole when one fails, and rebuilt for another attempt."""

import contextlib
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ifru_dist.errors import ConfigError, GangError, IfruError
from ifru_dist.sharding.policy import Failure, decide
from ifru_dist.sharding.worker import Change, Worker, WorkerPlan

Result = TypeVar("Result")

_BEAT_S = 1.0
"""How often workers that are at work are asked for a sign of life."""


@dataclass(frozen=True, kw_only=True)
class GangOptions:
    """What a gang asks of the cluster."""

    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    start_timeout_s: float = 120
    """How long to wait for the cluster to have room."""
    batch_timeout_s: float = 3600
    """How long one call on all workers may take."""
    silence_s: float = 30
    """How long a worker may stay silent, whatever it is doing, before the gang is given up."""


class _ShardActor:
    """A worker in a Ray actor."""

    def load(self, plan: WorkerPlan, search_path: list[str]) -> None:
        """Load the worker's share. Not in the constructor: an error there would lose its own class on the way back.

        ``search_path`` is the coordinator's: Ray hands on its working directory, but not its PYTHONPATH, in which the
        module of a model of one's own may lie. What this process finds by itself comes first.
        """
        sys.path += [folder for folder in search_path if folder not in sys.path]
        self._worker = Worker(plan)

    def rendezvous(self) -> str:
        """A free ``host:port`` on this node, at which rank 0 can listen."""
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"  # type: ignore[no-untyped-call]

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker."""
        return getattr(self._worker, method)(*arguments)

    @ray.method(concurrency_group="health")
    def beat(self) -> None:
        """Answer, beside whatever else is being done, as long as the process runs."""


class Gang:
    """Workers for one version; a context that leaves no actor behind."""

    def __init__(self, plans: list[WorkerPlan], options: GangOptions) -> None:
        """Start the actors, load their shards and connect them.

        Raises:
            ConfigError: the cluster can never give what is asked.
            GangError: it cannot give it now, or a worker failed to start.
        """
        self._options = options
        _check_resources(len(plans), options)
        self._actors: list[Any] = []
        self._group = _reserve(len(plans), options)
        try:
            strategy = PlacementGroupSchedulingStrategy(placement_group=self._group)
            remote: Any = ray.remote  # its types know no concurrency groups
            actor = remote(
                num_cpus=options.cpus_per_worker,
                num_gpus=options.gpus_per_worker,
                max_restarts=0,
                concurrency_groups={"health": 1},
                scheduling_strategy=strategy,
            )(_ShardActor)
            self._actors = [actor.remote() for _ in plans]
            path = [folder for folder in sys.path if folder]
            loaded = [actor.load.remote(plan, path) for actor, plan in zip(self._actors, plans, strict=True)]
            self._get(loaded, silence_s=options.start_timeout_s)  # their processes have to start first
            address = self._get(self._actors[0].rendezvous.remote())
            self.call("connect", address, secrets.token_hex())
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method on all workers at once; results by rank.

        Raises:
            IfruError: as the worker raised it.
            GangError: a worker was lost, failed, or did not answer in time.
        """
        stored = [ray.put(argument) for argument in arguments]
        results: list[Any] = self._get([actor.call.remote(method, *stored) for actor in self._actors])
        return results

    def close(self) -> None:
        """Kill the actors and give their place back."""
        with contextlib.suppress(ray.exceptions.RayError):  # a cluster that is gone has killed them itself
            for actor in self._actors:
                ray.kill(actor, no_restart=True)
            remove_placement_group(self._group)

    def __enter__(self) -> Self:
        """The gang itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the gang."""
        self.close()

    def _wait(self, references: list[Any], silence_s: float) -> None:
        """Wait for all calls, or for the first that fails; ask the workers for signs of life meanwhile."""
        started = asked = time.monotonic()
        beats: list[Any] = [actor.beat.remote() for actor in self._actors]
        waiting = references
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_BEAT_S)
            ray.get(done)  # the error of one that failed: the others may wait for it in vain
            silent, now = len(beats) - len(ray.wait(beats, num_returns=len(beats), timeout=0)[0]), time.monotonic()
            if not silent:
                beats, asked = [actor.beat.remote() for actor in self._actors], now
            elif waiting and now - asked > silence_s:
                raise _AttemptError(f"{silent} of {len(beats)} workers were silent for {silence_s:g} s")
            if waiting and now - started > self._options.batch_timeout_s:
                raise _AttemptError(f"the workers did not answer within {self._options.batch_timeout_s:g} s")

    def _get(self, references: Any, silence_s: float | None = None) -> Any:
        """Results of remote calls, or the failure in our own words."""
        try:
            limit = self._options.silence_s if silence_s is None else silence_s
            self._wait(references if isinstance(references, list) else [references], limit)
            return ray.get(references)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, IfruError):
                raise error.cause from None
            raise _AttemptError(f"a worker failed: {_last_line(error)}") from error
        except ray.exceptions.RayError as error:
            raise _AttemptError(f"a worker was lost: {_last_line(error)}") from error


class _AttemptError(GangError):
    """A failure that fresh workers may not meet again."""


class StandingGang:
    """A gang that stands from one piece of work to the next; when it fails it is torn down and another one is built."""

    def __init__(self, options: GangOptions, max_retries: int) -> None:
        """Nothing is started yet.

        Args:
            options: what gangs ask of the cluster.
            max_retries: how often a piece of work is tried again, on a fresh gang each time.
        """
        self._options, self._max_retries = options, max_retries
        self._gang: Gang | None = None
        self._digest: str | None = None

    def run(self, plan: WorkerPlan, work: Callable[[Gang], Result], on_failure: Callable[[Failure], None]) -> Result:
        """Do work with workers that hold the plan's version.

        The work must not have effects before it returns: every attempt starts from the last committed version.

        Raises:
            GangError: the gang failed more often than ``max_retries`` times.
            IfruError: as a worker raised it; that would only come again. The gang is torn down.
        """
        attempt = 1
        while True:
            try:
                return work(self._holding(plan))
            except _AttemptError as error:
                self.close()
                failure = Failure(attempt, str(error))
                on_failure(failure)
                if decide(failure, self._max_retries) == "give_up":
                    raise GangError(f"{error}; gave up after {attempt} attempt(s), nothing was committed") from error
                attempt += 1
            except BaseException:
                self.close()
                raise

    def advance(self, change: Change) -> None:
        """Hold the version that committing a batch made; a gang that cannot is torn down."""
        if self._gang is None:
            return
        try:
            self._gang.call("advance", change)
            self._digest = change.digest
        except _AttemptError:
            self.close()

    def close(self) -> None:
        """Tear the gang down, if there is one."""
        if self._gang is not None:
            self._gang.close()
        self._gang = self._digest = None

    def holds(self, plan: WorkerPlan) -> bool:
        """Whether a gang stands that holds the plan's version."""
        return self._gang is not None and self._digest == plan.digest

    def _holding(self, plan: WorkerPlan) -> Gang:
        """A gang that holds the plan's version: the one that stands, or a fresh one."""
        if self._gang is None or not self.holds(plan):
            self.close()
            self._gang, self._digest = Gang(plans_for(plan), self._options), plan.digest
        return self._gang


def plans_for(plan: WorkerPlan) -> list[WorkerPlan]:
    """The plan of every rank."""
    return [replace(plan, rank=rank) for rank in range(plan.world_size)]


def _check_resources(workers: int, options: GangOptions) -> None:
    """Refuse what the nodes of the cluster cannot give even when nobody else uses them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    each = {"CPU": options.cpus_per_worker, "GPU": options.gpus_per_worker}
    room = sum(_fitting(node, each) for node in nodes)
    if room < workers:
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in each}
        option = "--gpus-per-worker" if total["GPU"] < each["GPU"] * workers else "--workers"
        value = each["GPU"] if option == "--gpus-per-worker" else workers
        raise ConfigError(
            f"{option} = {value:g}: {workers} workers with {each['CPU']:g} CPU and {each['GPU']:g} GPU each do not fit "
            f"on the cluster's {len(nodes)} node(s) with {total['CPU']:g} CPUs and {total['GPU']:g} GPUs in all: ask "
            "for less, or add nodes"
        )


def _fitting(node: dict[str, float], each: dict[str, float]) -> int:
    """How many workers fit on a node."""
    return min(int(node.get(name, 0.0) // need) for name, need in each.items() if need > 0)


def _reserve(workers: int, options: GangOptions) -> PlacementGroup:
    """Reserve a place for every worker, or say that the cluster is full."""
    bundle = {"CPU": options.cpus_per_worker}
    if options.gpus_per_worker:
        bundle["GPU"] = options.gpus_per_worker
    group = placement_group([bundle] * workers, strategy="SPREAD")
    if not group.wait(options.start_timeout_s):
        remove_placement_group(group)
        raise GangError(
            f"the cluster had no room for {workers} workers with {bundle} each within {options.start_timeout_s:g} s: "
            "ask for fewer, or wait until other jobs end"
        )
    return group


def _last_line(error: BaseException) -> str:
    """The last line of an error's text."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
