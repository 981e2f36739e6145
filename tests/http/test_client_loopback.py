"""The client on real sockets: what only httpx2's own transport can show."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio
from blake3 import blake3

from ostnode.client import (
    BadAnswerError,
    ByteRange,
    ClientError,
    ClientOptions,
    IntegrityError,
    RetryPolicy,
    connect,
)
from ostnode.errors import BlobTooLargeError, NotFoundError, OstError
from ostnode.ids import BlobId, PrincipalKind
from ostnode.wire import messages as m
from tests.support.client_fakes import ALICE, INDEX, contents, fail_first, problem
from tests.support.client_loopback import LoopbackCluster, loopback_client

DATA = bytes(range(256)) * (20 << 10)  # 5 MiB
BLOB = BlobId(blake3(DATA).digest())
ME = ALICE.principal


async def test_bytes_go_up_and_come_down(tmp_path: Path) -> None:
    cluster = LoopbackCluster()
    async with loopback_client(cluster) as client:
        uploaded = await client.upload(DATA)
        await client.download(ME, BLOB, to=tmp_path / "x", bucket=uploaded.bucket)
        part = await client.read(
            ME, BLOB, bucket=uploaded.bucket, byte_range=ByteRange(100_000, 300_000)
        )
    assert cluster.blobs == {BLOB: DATA}
    assert contents(tmp_path) == {"x": DATA}
    assert part == DATA[100_000:300_000]
    assert uploaded.chunks_sent == 5


async def test_connections_are_used_again_and_bounded() -> None:
    cluster = LoopbackCluster(chunk_bytes=1 << 16)
    options = ClientOptions(parallel=3, connections_max=3)
    async with loopback_client(cluster, options) as client:
        uploaded = await client.upload(DATA)
        for _ in range(5):
            await client.read(ME, BLOB, bucket=uploaded.bucket)
    assert uploaded.chunks_sent == 80
    assert len(cluster.clients) == 3


async def test_uploads_share_the_bound(tmp_path: Path) -> None:
    cluster = LoopbackCluster(chunk_bytes=1 << 16)
    options = ClientOptions(parallel=2, connections_max=2)
    async with loopback_client(cluster, options) as client, trio.open_nursery() as nursery:
        for start in range(3):
            nursery.start_soon(client.upload, DATA[start : 1 << 20])
    assert len(cluster.clients) == 2


async def test_an_answer_that_is_not_wanted_costs_its_connection_only() -> None:
    cluster = LoopbackCluster()
    options = ClientOptions(parallel=1, connections_max=1, answer_deadline_s=5)
    async with loopback_client(cluster, options) as client:
        uploaded = await client.upload(DATA)
        path = f"/{ME.text(PrincipalKind.ACCESSOR)}/{BLOB}"
        whole = httpx2.Response(206, headers={"content-range": "bytes 0-8/9"}, content=b"012345678")
        cluster.faults.append(fail_first(1, path, lambda: whole))
        with pytest.raises(BadAnswerError):
            await client.read(ME, BLOB, bucket=uploaded.bucket)
        assert await client.read(ME, BLOB, bucket=uploaded.bucket) == DATA


async def test_a_stream_left_in_the_middle_costs_its_connection_only() -> None:
    """filterwarnings = error: a generator that is dropped half-way would fail this test."""
    cluster = LoopbackCluster()
    async with loopback_client(cluster, ClientOptions(parallel=1, connections_max=1)) as client:
        uploaded = await client.upload(DATA)
        for _ in range(3):
            async with client.stream(ME, BLOB, bucket=uploaded.bucket) as stream:
                assert DATA.startswith(await anext(stream))
        assert await client.read(ME, BLOB, bucket=uploaded.bucket) == DATA


async def test_a_broken_download_goes_on(tmp_path: Path) -> None:
    cluster = LoopbackCluster()
    async with loopback_client(cluster) as client:
        uploaded = await client.upload(DATA)
        cluster.cut_after = [1 << 20, 2 << 20]
        await client.download(ME, BLOB, to=tmp_path / "x", bucket=uploaded.bucket)
    assert contents(tmp_path) == {"x": DATA}
    assert not cluster.cut_after


async def test_corrupt_bytes_leave_no_file(tmp_path: Path) -> None:
    cluster = LoopbackCluster()
    async with loopback_client(cluster) as client:
        uploaded = await client.upload(DATA)
        cluster.blobs[BLOB] = DATA[:-1] + b"?"
        with pytest.raises(IntegrityError):
            await client.download(ME, BLOB, to=tmp_path / "x", bucket=uploaded.bucket)
    assert contents(tmp_path) == {}


async def test_refusals_come_typed_over_sockets() -> None:
    cluster = LoopbackCluster()
    cluster.faults.append(
        fail_first(1, "/v1/allocations", lambda: problem(BlobTooLargeError(limit=5, needed=9)))
    )
    async with loopback_client(cluster) as client:
        with pytest.raises(BlobTooLargeError) as caught:
            await client.upload(DATA)
        assert caught.value.details == {"limit": 5, "needed": 9}
        with pytest.raises(NotFoundError):
            await client.read(ME, BLOB, bucket=cluster.address)


async def test_a_server_may_refuse_before_it_has_read_the_body() -> None:
    """The rest of the chunk meets a closed connection; the refusal is what counts."""

    async def refuse_chunks(stream: trio.SocketStream) -> None:
        async with stream:
            head = await stream.receive_some(1 << 10)
            if b"/v1/session" in head:
                await stream.send_all(_json(b"200 OK", b'{"session": "s", "expires_at": 9}'))
            else:
                refusal = b'{"code": "blob_too_large", "detail": "no"}'
                await stream.send_all(_json(b"413 x", refusal))

    cluster = LoopbackCluster()
    async with loopback_client(cluster) as client, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, refuse_chunks, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        cluster.address = m.BucketAddress(INDEX.principal, f"http://127.0.0.1:{port}")
        with pytest.raises(BlobTooLargeError, match="no"):
            await client.upload(DATA[: 1 << 20])
        nursery.cancel_scope.cancel()


def _json(status: bytes, body: bytes) -> bytes:
    head = b"Content-Type: application/problem+json\r\nConnection: close\r\n"
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, head, len(body), body)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "UnreachableError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "UnreachableError"),
        (b"220 smtp ready\r\n", "UnreachableError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "BadAnswerError"),
        (b"HTTP/1.1 302 x\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "BadAnswerError"),
    ],
    ids=["nothing", "cut", "another protocol", "another program", "a redirect"],
)
async def test_whatever_answers_there_the_error_is_typed(said: bytes, error: str) -> None:
    async def say(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1 << 16)
            await stream.send_all(said)

    assert (await _error_of(say)).startswith(error)


async def test_nobody_there_is_unreachable() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    assert (await _error_at(port)).startswith("UnreachableError")


async def _error_of(handler) -> str:
    """What a call to such a server raises."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        error = await _error_at(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()
    return error


async def _error_at(port: int) -> str:
    options = ClientOptions(retry=RetryPolicy(attempts_max=1))
    url = f"http://127.0.0.1:{port}"
    async with connect(url, ALICE, index=INDEX.principal, options=options) as client:
        try:
            await client.upload(DATA)
        except (OstError, ClientError) as error:
            return f"{type(error).__name__}: {error}"
    return "no error"
