"""A real Ray cluster of several nodes on one machine, for tests and the demo (Linux).

Each node is a ``ray start --block`` with its own raylet, object store and folder, so that a node can be killed as if a
host were lost. Every port is a free one: clusters do not disturb each other, nor one that already runs on the machine.

Ray replaces a loopback address by the machine's own one, and its control and worker processes listen on all interfaces;
only the dashboard keeps to loopback. On a network that is not trusted use ``auth="token"``.

Run ``python -m cluster.local --nodes 2 --cpus-per-node 2`` to have one until Ctrl-C.
"""

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cluster.processes import kill_processes, tagged_environment

_LOOPBACK = "127.0.0.1"
_RAY = [sys.executable, "-m", "ray.scripts.scripts"]
# Linux allows 107 bytes for the path of a socket; the part of it from the node's folder on takes up to 72.
_MAX_FOLDER_LENGTH = 107 - 72
# Variables of the caller that would lead Ray to another cluster or another token.
_FOREIGN_VARIABLES = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_JOB_HEADERS",
    "RAY_NAMESPACE",
    "RAY_RUNTIME_ENV",
)
_POLL_S = 0.1


class ClusterStartError(RuntimeError):
    """A node could not be started; the message ends with what Ray printed last."""


@dataclass(frozen=True, kw_only=True)
class _Node:
    """One ``ray start`` and where it keeps its files."""

    process: subprocess.Popen[bytes]
    tag: str
    folder: Path

    @property
    def output(self) -> Path:
        """What ``ray start`` prints."""
        return self.folder / "output.txt"

    @property
    def address_file(self) -> Path:
        """Written by Ray, with the cluster's address, once the node has joined."""
        return self.folder / "ray_current_cluster"

    def tail(self) -> str:
        """The last lines that the node printed."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-15:])


class LocalCluster:
    """A Ray cluster that lives as long as a ``with`` block.

    Example::

        with LocalCluster(nodes=2, cpus_per_node=2) as cluster:
            subprocess.run([..., "job", "submit", ...], env=os.environ | cluster.environment)

    Attributes:
        folder: temporary folder of the cluster, removed at the end; holds Ray's logs.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        cpus_per_node: int = 2,
        dashboard: bool = True,
        auth: Literal["disabled", "token"] = "disabled",
        object_store_bytes: int = 200_000_000,
        start_timeout_s: float = 120.0,
    ) -> None:
        """Describe a cluster; entering the context starts it.

        Args:
            nodes: number of nodes, the head included.
            cpus_per_node: CPUs that each node claims to have, whatever the machine has.
            dashboard: whether to start the dashboard, which ``ray job submit`` needs.
            auth: Ray's authentication mode; with "token" the cluster makes a token of its own.
            object_store_bytes: shared memory per node (Ray's least is 75 MiB).
            start_timeout_s: how long the start may take.
        """
        self._nodes_wanted = nodes
        self._cpus_per_node = cpus_per_node
        self._dashboard = dashboard
        self._auth = auth
        self._object_store_bytes = object_store_bytes
        self._start_timeout_s = start_timeout_s
        self._nodes: list[_Node] = []
        self._address = ""
        self._dashboard_port = 0
        self._token = ""
        self.folder = Path()

    def __enter__(self) -> Self:
        """Start the cluster and wait until it can be used.

        Raises:
            ClusterStartError: if a node ends early, or the start takes too long; nothing is left behind.
        """
        self._make_folder()
        try:
            self._start(time.monotonic() + self._start_timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the cluster."""
        self.stop()

    @property
    def address(self) -> str:
        """Host and port of the head, for ``ray.init(address=...)``."""
        return self._address

    @property
    def dashboard_url(self) -> str | None:
        """Where dashboard and job submission answer; None without dashboard."""
        return f"http://{_LOOPBACK}:{self._dashboard_port}" if self._dashboard else None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a process needs to use this cluster and no other, to be laid over its own environment.

        With all of them set Ray looks neither for the address of another cluster nor for a token in the home folder.
        """
        variables = {"RAY_ADDRESS": self.address, **self._authentication, "RAY_USAGE_STATS_ENABLED": "0"}
        return variables | ({"RAY_API_SERVER_ADDRESS": self.dashboard_url} if self.dashboard_url else {})

    def kill_node(self, index: int) -> None:
        """Kill every process of a node at once, as if its host were lost.

        Args:
            index: which node, in the order of their start; 0 is the head.
        """
        node = self._nodes[index]
        kill_processes(node.tag, {node.process.pid})
        node.process.wait()

    def stop(self) -> None:
        """Kill every process of the cluster, jobs included, and remove its folder; again does nothing.

        Nothing is asked to end by itself: that takes Ray seconds, and there is nothing to save.

        Raises:
            TimeoutError: if a process survives being killed.
        """
        for index in reversed(range(len(self._nodes))):
            self.kill_node(index)
        self._nodes.clear()
        if self.folder != Path():
            shutil.rmtree(self.folder)
            self.folder = Path()

    @property
    def _authentication(self) -> dict[str, str]:
        """The variables of Ray's authentication, complete, so that none of the caller's shines through."""
        token_path = str(self.folder / "token") if self._auth == "token" else ""
        return {"RAY_AUTH_MODE": self._auth, "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": token_path}

    def _make_folder(self) -> None:
        """Create the folder, short enough for sockets in it, and the token."""
        folder = Path(tempfile.mkdtemp(prefix="ray-"))
        if len(str(folder)) > _MAX_FOLDER_LENGTH:
            folder.rmdir()
            raise ClusterStartError(
                f"temporary folder {folder} is too long for Ray's sockets "
                f"({len(str(folder))} > {_MAX_FOLDER_LENGTH} characters): set TMPDIR to a shorter one"
            )
        self.folder = folder
        if self._auth == "token":
            self._token = secrets.token_hex(32)
            (folder / "token").touch(mode=0o600)
            (folder / "token").write_text(self._token)

    def _start(self, deadline: float) -> None:
        """Start the head, then the other nodes together, and wait for all."""
        client_port, self._dashboard_port = _free_ports(2)
        options = ["--head", "--port=0", f"--ray-client-server-port={client_port}", "--disable-usage-stats"]
        options += [f"--include-dashboard={self._dashboard}", f"--dashboard-host={_LOOPBACK}"]
        self._launch([*options, f"--dashboard-port={self._dashboard_port}"])
        self._address = self._joined_address(self._nodes[0], deadline)
        for _ in range(1, self._nodes_wanted):
            self._launch([f"--address={self._address}"])
        for node in self._nodes[1:]:
            self._joined_address(node, deadline)
        if self._dashboard:
            self._wait_for_jobs(deadline)

    def _launch(self, options: list[str]) -> None:
        """Start one node; the ports that are not named here are chosen by Ray's processes as they bind them."""
        folder = self.folder / str(len(self._nodes))
        folder.mkdir()
        tag = uuid.uuid4().hex
        command = [*_RAY, "start", "--block", f"--temp-dir={folder}", f"--num-cpus={self._cpus_per_node}"]
        command += [f"--object-store-memory={self._object_store_bytes}", "--dashboard-agent-listen-port=0"]
        inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
        # Whatever the node's processes leave in their temporary folder goes away with the cluster.
        # First on the path is this interpreter, so that a job's "python" is the one that its nodes run.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        own = {"RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(folder), "PATH": path}
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [*command, "--num-gpus=0", *options],
                env=inherited | own | self._authentication | tagged_environment(tag),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._nodes.append(_Node(process=process, tag=tag, folder=folder))

    def _joined_address(self, node: _Node, deadline: float) -> str:
        """Wait until a node has joined the cluster; returns the head's address."""
        while not (node.address_file.exists() and (address := node.address_file.read_text().strip())):
            self._check(node, deadline, "has not joined the cluster")
            time.sleep(_POLL_S)
        return address

    def _wait_for_jobs(self, deadline: float) -> None:
        """Wait until the dashboard takes jobs."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(f"{self.dashboard_url}/api/jobs/", headers=headers)
        while not _answers(request):
            self._check(self._nodes[0], deadline, "does not answer at its job interface")
            time.sleep(_POLL_S)

    def _check(self, node: _Node, deadline: float, problem: str) -> None:
        """Raise if a node that is waited for has ended, or time is up."""
        if (status := node.process.poll()) is not None:
            raise ClusterStartError(f"ray start ended with status {status}:\n{node.tail()}")
        if time.monotonic() > deadline:
            raise ClusterStartError(f"a node {problem} within {self._start_timeout_s} s:\n{node.tail()}")


def _free_ports(count: int) -> list[int]:
    """Different TCP ports that are free now."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _answers(request: urllib.request.Request) -> bool:
    """Whether a request succeeds; a server that is still starting refuses or answers with an error."""
    # No proxy: the request goes to loopback, whatever the environment says about the outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _main() -> None:
    """Run a cluster until the process is interrupted or terminated."""
    parser = argparse.ArgumentParser(description="A Ray cluster on this machine, until Ctrl-C.")
    parser.add_argument("--nodes", type=int, default=2, help="number of nodes, the head included (2)")
    parser.add_argument("--cpus-per-node", type=int, default=2, help="CPUs that each node claims to have (2)")
    parser.add_argument("--auth", choices=["disabled", "token"], default="disabled", help="Ray's authentication mode")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with (
        contextlib.suppress(KeyboardInterrupt),
        LocalCluster(nodes=arguments.nodes, cpus_per_node=arguments.cpus_per_node, auth=arguments.auth) as cluster,
    ):
        print(f"Ray cluster of {arguments.nodes} nodes, logs in {cluster.folder}. In another shell:\n")
        for name, value in cluster.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print("ray job submit --working-dir . -- python jobs/unlearn.py ...\n\nCtrl-C ends it.", flush=True)
        signal.pause()


if __name__ == "__main__":
    _main()
