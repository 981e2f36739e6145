"""Real processes: the command line as a shell runs it, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ostnode.cli.demo.processes import Cluster, free_addresses, running_cluster
from ostnode.cli.demo.stage import eventually
from ostnode.client import Client, connect
from ostnode.identity.keys import KeyPair

OSTNODE = [sys.executable, "-m", "ostnode"]
SOCKETS_TIMEOUT_S = 60


@asynccontextmanager
async def real_cluster(root: Path, buckets: int = 2) -> AsyncIterator[Cluster]:
    """Processes that run and know each other."""
    async with running_cluster(root, buckets) as cluster:
        async with client_of(cluster, cluster.app) as app:

            async def states() -> set[str]:
                return {bucket.state for bucket in (await app.cluster_status()).buckets}

            await eventually("states of the buckets", {"active"}, states)
        yield cluster


@asynccontextmanager
async def client_of(cluster: Cluster, key: KeyPair) -> AsyncIterator[Client]:
    async with connect(cluster.index_url, key, index=cluster.index_principal) as client:
        yield client


def ostnode(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*OSTNODE, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def start_ostnode(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a command; its output is in out.txt and err.txt under `cwd`."""
    with (cwd / "out.txt").open("w") as out, (cwd / "err.txt").open("w") as err:
        return subprocess.Popen(
            [*OSTNODE, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
        )


async def wait_for_text(path: Path, text: str, process: subprocess.Popen[str]) -> str:
    """A file's content once `text` stands in it."""
    with trio.fail_after(SOCKETS_TIMEOUT_S):
        while text not in (content := await trio.Path(path).read_text()):
            errors = await trio.Path(path.with_name("err.txt")).read_text()
            assert process.poll() is None, content + errors
            await trio.sleep(0.05)
    return content


def processes_about(text: str) -> list[str]:
    """Command lines of running processes that mention `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found


def demo_directories(root: Path) -> list[Path]:
    return list(root.glob("ostnode-demo-*"))


def dev_environment() -> dict[str, str]:
    """Free ports for dev mode, through its environment overrides."""
    ports = iter(free_addresses(9))
    names = ["INDEX_HTTP", "INDEX_PEER", "INDEX_ADMIN"]
    names += [f"BUCKET_{n}_{kind}" for n in range(2) for kind in ("HTTP", "PEER", "ADMIN")]
    env = {f"OST_{name}": next(ports) for name in names}
    for n in range(2):
        env[f"OST_BUCKET_{n}_INDEX_PEER"] = env["OST_INDEX_PEER"]
    return env
