"""B13: one large blob costs neither node nor client memory in proportion."""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from ostnode.cli.demo.processes import Cluster
from ostnode.ids import BlobId, PrincipalKind
from tests.support.processes import OSTNODE, client_of, real_cluster

pytestmark = pytest.mark.system
MIB = 1 << 20
BLOB_BYTES = 1024 * MIB
ABOVE_IDLE_MAX = 100_000_000


def peak_of(pid: int | None) -> int:
    """The most a process has held in memory so far, in bytes; 0 once it has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def peak_of_command(cluster: Cluster, *arguments: object) -> int:
    """Run a command as the app, and return the most it held in memory, in bytes.

    The rusage of a child counts the parent it was forked from, so the process itself is watched.
    """
    index = cluster.index_principal.text(PrincipalKind.INDEX)
    env = {
        **os.environ,
        "OST_INDEX": f"{index}@{cluster.index_url}",
        "OST_KEY": str(cluster.root / "app.key"),
    }
    command = [*OSTNODE, *map(str, arguments)]
    peak = 0
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0
    return peak


def large_file(path: Path) -> BlobId:
    hasher = blake3()
    with path.open("wb") as file:
        for _ in range(BLOB_BYTES // MIB):
            piece = os.urandom(MIB)
            hasher.update(piece)
            file.write(piece)
    return BlobId(hasher.digest())


async def test_b13_1_gib_goes_up_and_down_in_bounded_memory(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, buckets=1) as cluster:
        async with client_of(cluster, cluster.app) as app:
            await app.register_user(cluster.app.principal, 2 * BLOB_BYTES)
        await trio.to_thread.run_sync(_up_and_down, cluster, tmp_path)


def _up_and_down(cluster: Cluster, root: Path) -> None:
    (root / "small").write_bytes(b"small")
    blob_id = large_file(root / "large")
    idle = peak_of_command(cluster, "blob", "put", root / "small")
    idle_nodes = {node.name: peak_of(node.pid) for node in cluster.nodes}

    up = peak_of_command(cluster, "blob", "put", root / "large")
    down = peak_of_command(cluster, "blob", "get", blob_id, "--out", root / "copy")
    assert filecmp.cmp(root / "large", root / "copy", shallow=False)
    above = {"blob put": up - idle, "blob get": down - idle}
    for node in cluster.nodes:
        above[node.name] = peak_of(node.pid) - idle_nodes[node.name]
    assert max(above.values()) < ABOVE_IDLE_MAX, above
