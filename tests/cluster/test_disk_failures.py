"""A bucket's process whose disk fails, and a second one on its data: what the operator meets."""

from __future__ import annotations

import errno
import re
import subprocess
import time
from pathlib import Path

import pytest
import trio

from ostnode.cli.demo.processes import Cluster, NodeProcess, free_addresses
from ostnode.identity.keys import KeyPair
from tests.support.processes import client_of, ostnode, real_cluster
from tests.support.strace import needs_strace

pytestmark = pytest.mark.system


def bucket_of(cluster: Cluster) -> NodeProcess:
    (process,) = cluster.buckets.values()
    return process


def fail_syncs(pid: int, log: Path) -> subprocess.Popen[bytes]:
    """From now on every fdatasync of the process answers EIO; skips where tracing is refused."""
    command = ["strace", "-f", "-o", str(log), "-e", "trace=fdatasync", "-e",
               "inject=fdatasync:error=EIO", "-p", str(pid)]  # fmt: skip
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{pid}/task/{pid}/status")
    deadline = time.monotonic() + 10
    while "TracerPid:\t0" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            tracer.kill()
            pytest.skip(f"ptrace: {errno.errorcode[errno.EPERM]}")
        time.sleep(0.01)
    return tracer


@needs_strace
async def test_b44_a_bucket_whose_sync_fails_ends_and_says_why(tmp_path: Path) -> None:
    """What the index tells it is the first thing it would write."""
    alice = KeyPair.from_seed(bytes(32))
    async with real_cluster(tmp_path, buckets=1) as cluster:
        bucket = bucket_of(cluster)
        assert bucket.pid is not None
        log = tmp_path / "strace.log"
        tracer = fail_syncs(bucket.pid, log)
        try:
            async with client_of(cluster, cluster.app) as app:
                await app.register_user(alice.principal, 1 << 20)
            with trio.fail_after(20):
                assert await bucket.wait() == 1
        finally:
            tracer.kill()
            tracer.wait()
        assert log.read_text().count("(INJECTED)") == 1  # never retried
        told = bucket.log_tail()
        assert re.search(r"Input/output error: '.*/segments/0000000\d\.seg'", told)
        assert "the next start verifies what was written last" in told
        await bucket.start()
        async with client_of(cluster, alice) as client:
            await client.upload(b"stored now")


async def test_b46_a_second_process_on_a_buckets_data_is_refused(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, buckets=1) as cluster:
        bucket = bucket_of(cluster)
        text = bucket.config_file.read_text()
        again = bucket.config_file.with_name("again.toml")
        for key, address in zip(("http", "peer", "admin"), free_addresses(3), strict=True):
            text = re.sub(rf'(?m)^{key} = ".*"$', f'{key} = "{address}"', text)
        again.write_text(text)
        done = await trio.to_thread.run_sync(lambda: ostnode("run", again, cwd=tmp_path))
        assert done.returncode == 1
        assert f"is in use by process {bucket.pid}: one process may own" in done.stderr
        assert "hint: see bucket[0].data_dir" in done.stderr
        assert bucket.running
