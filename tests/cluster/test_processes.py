"""The demo's flows with faults, on real processes: signals, kills, restarts, real files."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio
from blake3 import blake3

from ostnode.cli.demo.processes import Cluster, NodeProcess, lay_out
from ostnode.cli.demo.stage import eventually
from ostnode.cli.demo.visitor import Visitor
from ostnode.client import Attempt, Client, Phase, Progress, connect, mint_read
from ostnode.env import SystemRng
from ostnode.errors import NotFoundError
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import encode_text
from ostnode.ids import BlobId
from tests.support.processes import (
    client_of,
    demo_directories,
    dev_environment,
    ostnode,
    processes_about,
    real_cluster,
    start_ostnode,
    wait_for_text,
)

pytestmark = pytest.mark.system
MIB = 1 << 20


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with real_cluster(tmp_path) as running:
        yield running


@pytest.fixture
def alice() -> KeyPair:
    return KeyPair.generate(SystemRng())


@pytest.fixture
def general() -> KeyPair:
    return KeyPair.generate(SystemRng())


async def registered(cluster: Cluster, key: KeyPair) -> None:
    async with client_of(cluster, cluster.app) as app:
        await app.register_user(key.principal, 1 << 30)


async def account(client: Client) -> tuple[int, int]:
    allowance = await client.allowance()
    return allowance.used, allowance.reserved


def blob_of(data: bytes) -> BlobId:
    return BlobId(blake3(data).digest())


# --- B10: an upload whose bucket is killed under it ---------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_b10_one_upload_survives_its_buckets_end(
    cluster: Cluster, alice: KeyPair, general: KeyPair, number: signal.Signals
) -> None:
    """The client knows nothing of the restart: it goes on with what is missing."""
    await registered(cluster, alice)
    data = os.urandom(32 * MIB)
    accepted: list[str] = []
    at_half = trio.Event()

    def watch(progress: Progress) -> None:
        if progress.phase is Phase.PUSH and 2 * progress.done >= progress.total:
            if not at_half.is_set():
                node.send_signal(number)
            at_half.set()

    def count(attempt: Attempt) -> None:
        if attempt.call == "push_chunk" and not attempt.code:
            accepted.append(attempt.node)

    async def restart() -> None:
        await at_half.wait()
        assert await node.wait() == (0 if number is signal.SIGTERM else -number)
        await node.start()

    async with connect(
        cluster.index_url, alice, index=cluster.index_principal, observer=count
    ) as client:
        allocation = await client.allocated_bucket(blob_of(data), len(data))
        node = cluster.buckets[allocation.bucket.principal]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            uploaded = await client.upload(data, accessors=[general.principal], progress=watch)
        # An answer that was lost with the process is of a chunk that is there, and is not sent
        # again, or of one that is not.
        assert 32 - 4 <= len(accepted) <= 32 + 4
        token = mint_read(general, alice.principal, cluster_id=cluster.cluster_id)
        read = await client.read(general.principal, uploaded.reference.blob_id, token=token)
        assert read == data
        await eventually("the account", (len(data), 0), partial(account, client))


# --- the index goes away ------------------------------------------------------------------------


async def test_uploads_and_reads_outlive_a_killed_index(
    cluster: Cluster, alice: KeyPair, general: KeyPair
) -> None:
    """A grant given is enough for the bucket; the index hears of the completion later."""
    await registered(cluster, alice)
    data = os.urandom(3 * MIB)
    token = mint_read(general, alice.principal, cluster_id=cluster.cluster_id)

    async with client_of(cluster, alice) as client:

        def kill(progress: Progress) -> None:
            if progress.phase is Phase.PUSH:
                cluster.index.send_signal(signal.SIGKILL)

        uploaded = await client.upload(data, accessors=[general.principal], progress=kill)
        assert await cluster.index.wait() == -signal.SIGKILL
        blob_id = uploaded.reference.blob_id
        read = await client.read(general.principal, blob_id, token=token, bucket=uploaded.bucket)
        assert read == data
        await cluster.index.start()
        await eventually("the account", (len(data), 0), partial(account, client))


async def test_everything_is_killed_and_everything_is_there(
    cluster: Cluster, alice: KeyPair, general: KeyPair
) -> None:
    """B51, second half, for every role: what was acknowledged survives SIGKILL."""
    await registered(cluster, alice)
    blobs = [os.urandom(size) for size in (0, 1, 5000, MIB, 2 * MIB + 1)]
    async with client_of(cluster, alice) as client:
        async with trio.open_nursery() as nursery:
            for data in blobs:
                nursery.start_soon(partial(client.upload, data, accessors=[general.principal]))
        for node in cluster.nodes:
            node.send_signal(signal.SIGKILL)
        async with trio.open_nursery() as nursery:
            for node in cluster.nodes:
                await node.wait()
                nursery.start_soon(node.start)
    total = sum(map(len, blobs))
    token = mint_read(general, alice.principal, cluster_id=cluster.cluster_id)
    async with client_of(cluster, alice) as client:
        await eventually("the account", (total, 0), partial(account, client))
        for data in blobs:
            assert await client.read(general.principal, blob_of(data), token=token) == data
        async with client_of(cluster, cluster.app) as app:
            await app.delete_accessor(general.principal)
        await eventually("the account", (0, 0), partial(account, client))
        with pytest.raises(NotFoundError):
            await client.blob_info(general.principal, blob_of(blobs[2]), token=token)


# --- B51: SIGTERM -------------------------------------------------------------------------------


async def push_in_halves(
    cluster: Cluster,
    client: Client,
    key: KeyPair,
    data: bytes,
    between: Callable[[NodeProcess], Awaitable[None]],
) -> httpx2.Response:
    """Push a one-chunk blob, with something happening in the middle of its body."""
    allocation = await client.allocated_bucket(blob_of(data), len(data))
    node = cluster.buckets[allocation.bucket.principal]

    async def halves() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        await trio.sleep(0.2)
        await between(node)
        yield data[len(data) // 2 :]

    async with httpx2.AsyncClient(timeout=30) as http:
        visitor = Visitor(http, allocation.bucket)
        await visitor.log_in(key)
        headers = visitor.headers | {
            "Ost-Grant": encode_text(allocation.grant),
            "Ost-Chunk-Index": "0",
            "Content-Length": str(len(data)),
        }
        url = f"{allocation.bucket.http}/v1/chunks"
        return await http.post(url, content=halves(), headers=headers)


async def test_b51_sigterm_finishes_what_is_in_flight_and_exits_0(
    cluster: Cluster, alice: KeyPair
) -> None:
    await registered(cluster, alice)
    data = os.urandom(100_000)
    ending: list[NodeProcess] = []

    async def terminate(node: NodeProcess) -> None:
        ending.append(node)
        node.send_signal(signal.SIGTERM)
        await trio.sleep(1)

    async with client_of(cluster, alice) as client:
        answer = await push_in_halves(cluster, client, alice, data, terminate)
        assert answer.status_code == 200
        (node,) = ending
        with trio.fail_after(10):
            assert await node.wait() == 0
        await node.start()
        assert await client.read(alice.principal, blob_of(data)) == data


async def test_a_second_signal_ends_a_node_at_once(cluster: Cluster, alice: KeyPair) -> None:
    await registered(cluster, alice)

    async def terminate_twice(node: NodeProcess) -> None:
        node.send_signal(signal.SIGTERM)
        await trio.sleep(0.3)
        assert node.running
        node.send_signal(signal.SIGTERM)
        with trio.fail_after(3):  # the deadline for what is in flight is 5 s
            assert await node.wait() == 1

    async with client_of(cluster, alice) as client:
        with pytest.raises(httpx2.TransportError):
            await push_in_halves(cluster, client, alice, b"never all of it", terminate_twice)


async def test_b51_every_role_exits_0_when_idle(cluster: Cluster) -> None:
    for node in reversed(cluster.nodes):
        node.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            assert await node.wait() == 0
        assert "Traceback" not in node.log_file.read_text()


async def test_readiness_says_what_is_missing(cluster: Cluster) -> None:
    node = next(iter(cluster.buckets.values()))
    async with httpx2.AsyncClient() as http:
        ready = (await http.get(f"http://{node.admin}/readyz")).json()
        checks = {"serving": "ok", "index": "ok", "membership": "ok"}
        assert ready == {"ok": True, "checks": checks}
        await cluster.index.stop()

        async def index_check() -> tuple[int, str]:
            answer = await http.get(f"http://{node.admin}/readyz")
            return answer.status_code, answer.json()["checks"]["index"]

        await eventually("readiness", (503, "the index is not reachable"), index_check)
        assert (await http.get(f"http://{node.admin}/healthz")).status_code == 200


# --- the command line ---------------------------------------------------------------------------


def test_b52_a_bad_config_exits_2_and_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('cluster_id = "x"\n[index]\nhttp = "nowhere"\n')
    done = ostnode("run", "bad.toml", cwd=tmp_path)
    assert done.returncode == 2
    for key in ("cluster_id", "index.http", "index.key_file", "index.apps"):
        assert f"{key}: " in done.stderr
    assert "hint" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_a_key_others_can_read_stops_the_start(tmp_path: Path) -> None:
    cluster = lay_out(tmp_path, buckets=1)
    (tmp_path / "index.key").chmod(0o644)
    done = ostnode("run", cluster.index.config_file, cwd=tmp_path)
    assert done.returncode == 2
    assert "others may use it" in done.stderr
    assert "chmod 600" in done.stderr


async def test_dev_mode_serves_the_commands_it_suggests(tmp_path: Path) -> None:
    env = dev_environment()
    process = start_ostnode("dev", cwd=tmp_path, env=env)
    try:
        banner = await wait_for_text(tmp_path / "out.txt", "Ctrl-C", process)
        assert env["OST_INDEX_HTTP"] in banner
        assert "ost-data/dev.key" in banner
        run = partial(ostnode, cwd=tmp_path, env=env)
        (tmp_path / "README.md").write_text("hello\n")
        put = await trio.to_thread.run_sync(lambda: run("blob", "put", "README.md", "--json"))
        assert put.returncode == 0, put.stderr
        blob_id = json.loads(put.stdout)["blob_id"]
        got = await trio.to_thread.run_sync(lambda: run("blob", "get", blob_id, "--out", "copy"))
        assert got.returncode == 0, got.stderr
        assert (tmp_path / "copy").read_text() == "hello\n"
        status = await trio.to_thread.run_sync(lambda: run("cluster", "status", "--json"))
        assert json.loads(status.stdout)["users"] == 1
        gone = await trio.to_thread.run_sync(lambda: run("blob", "stat", "0" * 64))
        assert (gone.returncode, gone.stdout) == (3, "")
        process.send_signal(signal.SIGINT)
        with trio.fail_after(15):
            assert await trio.to_thread.run_sync(process.wait) == 0
    finally:
        process.kill()
        process.wait()
    nobody = await trio.to_thread.run_sync(lambda: run("user", "show"))
    assert nobody.returncode == 6


async def test_dev_mode_names_the_port_that_is_taken(tmp_path: Path) -> None:
    env = dev_environment()
    process = start_ostnode("dev", cwd=tmp_path, env=env)
    try:
        await wait_for_text(tmp_path / "out.txt", "Ctrl-C", process)
        second = tmp_path / "second"
        second.mkdir()
        done = await trio.to_thread.run_sync(lambda: ostnode("dev", cwd=second, env=env))
        assert done.returncode == 1
        assert "index.admin cannot listen: Address already in use" in done.stderr
        assert "hint: is another node running?" in done.stderr
    finally:
        process.kill()
        process.wait()


# --- the demo itself ----------------------------------------------------------------------------


def test_the_demo_ends_with_ok(tmp_path: Path) -> None:
    own = tmp_path / "holiday.jpg"
    own.write_bytes(os.urandom(2 * MIB + 77))
    done = ostnode("demo", "--file", own, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "demo: ok"
    for number in range(1, 9):
        assert any(line.startswith(f"{number}. ") for line in lines)
    assert any("sending holiday.jpg: 100 %" in line for line in lines)
    assert any("chunks were sent to finish, none twice" in line for line in lines)
    assert not processes_about(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_demo_that_fails_says_what_it_expected(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path), "OST_TOKENS_READ_TTL_MAX": "1s"}
    done = ostnode("demo", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "error: step 3 failed: " in done.stderr
    assert "expected: success" in done.stderr
    assert "seen:     NotFoundError: not found" in done.stderr
    assert "demo: ok" not in done.stdout
    assert not processes_about(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start_ostnode(
        "demo", cwd=tmp_path, env={"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    )
    try:
        await wait_for_text(tmp_path / "out.txt", "2. ", process)
        assert len(processes_about(str(tmp_path))) >= 3
        process.send_signal(number)
        with trio.fail_after(20):
            assert await trio.to_thread.run_sync(process.wait) == 130
    finally:
        process.kill()
        process.wait()
    assert not processes_about(str(tmp_path))
    assert not demo_directories(tmp_path)
