"""A small cluster of real processes on loopback, each `ostnode run` with a config of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import trio

from ostnode.cli.failures import CommandError
from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.node.layout import INDEX_NAME, Listeners, NewCluster, NewRole, key_at
from ostnode.node.ports import free_addresses

READY_DEADLINE_S: Final = 30
STOP_DEADLINE_S: Final = 15
_POLL_S: Final = 0.05
_LOG_LINES: Final = 15


class ProcessFailedError(CommandError):
    """A node did not do what it must; the message ends with the last lines of its log."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, "")


class NodeProcess:
    """One `ostnode run`, started, killed and stopped as often as the story wants."""

    def __init__(self, name: str, config_file: Path, admin: str) -> None:
        self.name = name
        self.config_file = config_file
        self.log_file = config_file.with_suffix(".log")
        self.admin = admin
        self._process: trio.Process | None = None

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of the last start."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and return when it says that it is ready."""
        command = [sys.executable, "-m", "ostnode", "run", str(self.config_file)]
        with self.log_file.open("ab") as log:
            # A session of its own: Ctrl-C is for us, and we stop the nodes in order.
            self._process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with trio.move_on_after(READY_DEADLINE_S):
            async with httpx2.AsyncClient() as client:
                while self.running:
                    if await _is_ready(client, self.admin):
                        return
                    await trio.sleep(_POLL_S)
        raise ProcessFailedError(f"{self.name} did not become ready\n{self.log_tail()}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, at once: callable from a progress callback."""
        if self._process is not None:
            self._process.send_signal(number)

    async def wait(self) -> int:
        """The exit code, once the process has ended; minus the signal's number if one ended it."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> int:
        """End the process in order, or by force after STOP_DEADLINE_S; returns its exit code."""
        if self.running:
            self.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_DEADLINE_S):
                await self.wait()
        if self.running:
            self.send_signal(signal.SIGKILL)
        return await self.wait()

    def log_tail(self) -> str:
        """The last lines of the node's log."""
        if not self.log_file.exists():
            return ""
        text = self.log_file.read_text("utf-8", errors="replace")
        lines = [line for line in text.splitlines() if "/readyz" not in line]
        return "\n".join(f"  {self.name}: {line}" for line in lines[-_LOG_LINES:])


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes, and what a client needs to talk to them."""

    root: Path
    cluster_id: ClusterId
    app: KeyPair
    index_principal: Principal
    index_url: str
    index: NodeProcess
    buckets: dict[Principal, NodeProcess]

    @property
    def nodes(self) -> Sequence[NodeProcess]:
        """The index first."""
        return [self.index, *self.buckets.values()]


def lay_out(root: Path, buckets: int = 2) -> Cluster:
    """Make keys and configs under `root`; nothing runs yet."""
    rng, addresses = SystemRng(), iter(free_addresses(3 * (buckets + 1)))
    names = [INDEX_NAME, *(f"bucket-{number}" for number in range(buckets))]
    roles = [
        NewRole.at(root, name, Listeners(next(addresses), next(addresses), next(addresses)), rng)
        for name in names
    ]
    new = NewCluster(
        ClusterId(rng.token(ClusterId.length)),
        key_at(root / "app.key", rng),
        roles[0],
        roles[1:],
    )
    tables = [new.index_table(), *map(new.bucket_table, new.buckets)]
    processes = []
    for role, table in zip(roles, tables, strict=True):
        config_file = root / f"{role.name}.toml"
        config_file.write_text(new.top() + table, "utf-8")
        processes.append(NodeProcess(role.name, config_file, role.listeners.admin))
    return Cluster(
        root=root,
        cluster_id=new.cluster_id,
        app=new.app,
        index_principal=new.index.key.principal,
        index_url=f"http://{new.index.listeners.http}",
        index=processes[0],
        buckets={
            role.key.principal: process
            for role, process in zip(new.buckets, processes[1:], strict=True)
        },
    )


@asynccontextmanager
async def running_cluster(root: Path, buckets: int = 2) -> AsyncIterator[Cluster]:
    """A cluster that runs while the block does. However the block ends, no process is left."""
    cluster = lay_out(root, buckets)
    try:
        async with trio.open_nursery() as nursery:
            for node in cluster.nodes:
                nursery.start_soon(node.start)
        yield cluster
    finally:
        with trio.move_on_after(2 * STOP_DEADLINE_S, shield=True):
            await stop_all(cluster.nodes)


async def stop_all(nodes: Sequence[NodeProcess]) -> None:
    """Stop nodes at the same time."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.stop)


async def _is_ready(client: httpx2.AsyncClient, admin: str) -> bool:
    try:
        return (await client.get(f"http://{admin}/readyz")).is_success
    except httpx2.TransportError:
        return False
