"""What the HTTP tests share: a served application, a raw client, fake roles behind it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx2
import trio
from hypercorn.typing import ASGIFramework

from ostnode.config import HttpLimits
from ostnode.errors import NotFoundError
from ostnode.identity.keys import KeyPair
from ostnode.identity.sessions import Login, mint_login
from ostnode.identity.statements import TokenLimits, encode_text
from ostnode.ids import BlobId, Principal
from ostnode.web.serve import serve_http
from ostnode.web.sessions import Sessions
from ostnode.wire.calls import Caller, Kind, Reply
from ostnode.wire.fields import Request

NODE = KeyPair.from_seed(bytes([1]) * 32)
ALICE = KeyPair.from_seed(bytes([2]) * 32)
BOB = KeyPair.from_seed(bytes([3]) * 32)
GENERAL = KeyPair.from_seed(bytes([4]) * 32)
BLOB = BlobId(bytes(range(32)))
QUICK = HttpLimits(header_timeout=5, keep_alive=5, body_grace=5, send_timeout=5)


class FixedClock:
    """A clock that stands where it is put."""

    def __init__(self, now: float | None = None) -> None:
        self.time = time.time() if now is None else now

    def now(self) -> float:
        return self.time


@dataclass
class FakeService:
    """Answers every request with `answer`, or raises it; remembers what it was asked."""

    answer: Callable[[Request], object] | object = None
    asked: list[tuple[Caller, Request, bytes]] = field(default_factory=list)

    async def handle(self, caller: Caller, request: Request, body: bytes = b"") -> Reply:
        self.asked.append((caller, request, bytes(body)))
        answer = self.answer(request) if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer)


@dataclass
class FakeBlob:
    """A readable blob; `cut_at` is where its reference goes while it is read."""

    data: bytes
    content_type: str = "image/png"
    filename: str | None = None
    blob_id: BlobId = BLOB
    cut_at: int | None = None
    reads: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, length: int) -> memoryview:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        assert 0 < length <= 1 << 20
        assert offset + length <= self.size
        if self.cut_at is not None and offset >= self.cut_at:
            raise NotFoundError
        return memoryview(self.data)[offset : offset + length]


@dataclass
class FakeBlobs:
    """Lets `reader` read `blob` with the token b"good"; denies all else with `denial`."""

    blob: FakeBlob
    reader: Principal = BOB.principal
    denial: Exception = field(default_factory=NotFoundError)
    grant_refusal: Exception | None = None
    asked: list[tuple[Caller, Principal, BlobId, bytes]] = field(default_factory=list)

    def check_grant(self, caller: Caller, grant: bytes) -> None:
        if self.grant_refusal is not None:
            raise self.grant_refusal

    async def open_blob(
        self, caller: Caller, accessor: Principal, blob_id: BlobId, token: bytes
    ) -> FakeBlob:
        await trio.lowlevel.checkpoint()
        self.asked.append((caller, accessor, blob_id, token))
        if (caller.principal, accessor, blob_id, token) != (
            self.reader,
            GENERAL.principal,
            self.blob.blob_id,
            b"good",
        ):
            raise self.denial
        return self.blob


def make_sessions(
    clock: FixedClock | None = None,
    *,
    apps: frozenset[Principal] = frozenset(),
    blocked: frozenset[Principal] | set[Principal] = frozenset(),
) -> Sessions:
    return Sessions(
        NODE,
        clock=clock or FixedClock(),
        limits=TokenLimits(),
        kinds_of=lambda who: frozenset({Kind.APP}) if who in apps else frozenset(),
        is_blocked=lambda who: who in blocked,
    )


def login_of(
    key: KeyPair, *, now: float | None = None, cti: bytes = b"12345678", **changes
) -> bytes:
    issued_at = int(time.time() if now is None else now)
    fields = {"node": NODE.principal, "origin": "", "issued_at": issued_at, "cti": cti} | changes
    return mint_login(key, Login(caller=key.principal, **fields))


@asynccontextmanager
async def serving(app: ASGIFramework, limits: HttpLimits = QUICK) -> AsyncIterator[int]:
    """The port on which the application is served until the block ends."""
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_http, app, "127.0.0.1:0", limits))
        yield int(address.rpartition(":")[2])
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def web_client(
    app: ASGIFramework, limits: HttpLimits = QUICK
) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        serving(app, limits) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


async def log_in(client: httpx2.AsyncClient, key: KeyPair) -> dict[str, str]:
    """Headers that prove who asks."""
    answer = await client.post("/v1/session", json={"login": encode_text(login_of(key))})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"OST {answer.json()['session']}"}


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield stream


async def read_all(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes; fails when it does not within five seconds."""
    data = b""
    with trio.fail_after(5):
        try:
            while piece := await stream.receive_some():
                data += piece
        except trio.BrokenResourceError:
            pass
    return data


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send the parts and read until the server closes."""
    async with raw(port) as stream:
        for part in parts:
            await stream.send_all(part)
        return await read_all(stream)


async def read_answer(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """One answer with a Content-Length: its head and its body."""
    data = b""
    with trio.fail_after(5):
        while b"\r\n\r\n" not in data:
            piece = await stream.receive_some()
            assert piece, data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ]
        while len(body) < (lengths[0] if lengths else 0):
            body += await stream.receive_some()
    return head, body
