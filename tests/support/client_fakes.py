"""A cluster behind the client: an index and one bucket that answer HTTP from memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import trio
from blake3 import blake3

from ostnode.client import Attempt, Client, ClientOptions, connect
from ostnode.env import InlineWorker, SystemClock
from ostnode.errors import (
    AllowanceExceededError,
    GrantClosedError,
    HashMismatchError,
    NotFoundError,
    OstError,
    UnauthenticatedError,
)
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import TokenLimits, decode_text, encode_text, open_login
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, Uid
from ostnode.wire import messages as m
from ostnode.wire.fields import Message
from ostnode.wire.jsonmap import from_json, to_json

INDEX_URL = "http://index.test"
BUCKET_URL = "http://bucket.test"
START = 1_800_000_000.0


class FakeClock:
    """Wall-clock time that runs with Trio's."""

    def now(self) -> float:
        return START + trio.current_time()


class FakeRng:
    """Counted tokens; jitter at a fixed part of its range."""

    def __init__(self, part: float = 0.5) -> None:
        self.part = part
        self._count = 0

    def token(self, length: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(length, "big")

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.part


def key_pair(name: str) -> KeyPair:
    """The key pair of a name, always the same."""
    return KeyPair.from_seed(blake3(name.encode()).digest())


ALICE = key_pair("alice")
GENERAL = key_pair("general")
INDEX = key_pair("index")
BUCKET = key_pair("bucket")
CLUSTER = ClusterId(bytes(16))
ADDRESS = m.BucketAddress(BUCKET.principal, BUCKET_URL)

Fault = Callable[[httpx2.Request], httpx2.Response | None]
"""Looks at a request first: answers in the node's place, raises, or lets it pass with None."""


@dataclass
class Upload:
    """One grant's chunks."""

    grant_id: GrantId
    blob_id: BlobId
    size: int
    chunks: dict[int, bytes] = field(default_factory=dict)
    open: bool = True
    reference: m.BlobReference | None = None


class FakeCluster(httpx2.AsyncBaseTransport):
    """An index and a bucket. `faults` are asked first, in order; `requests` counts by name.

    Every request, and every piece of an answer, takes `takes_s`.
    """

    def __init__(self, chunk_bytes: int = 4) -> None:
        self.chunk_bytes = chunk_bytes
        self.address = ADDRESS
        self.limit = 1 << 40
        self.blobs: dict[BlobId, bytes] = {}
        self.uploads: dict[GrantId, Upload] = {}
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        self.bodies: list[tuple[str, httpx2.Headers, bytes]] = []
        self.sessions: set[str] = set()
        self.session_ttl_s = 900
        self.in_flight = 0
        self.in_flight_max = 0
        self.push_takes_s = 0.0
        self.already_yours = False
        self.piece_bytes = 3
        self.cut_after: list[int] = []
        self.takes_s = 0.0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await trio.sleep(self.takes_s)
        response = await self._respond(request)
        if response.is_stream_consumed:  # httpx2 reads what it is given as a whole
            stream = Pieces(response.content, 1 << 16, takes_s=self.takes_s)
            response = httpx2.Response(
                response.status_code, headers=response.headers, stream=stream
            )
        return response

    def now(self) -> float:
        return FakeClock().now()

    async def _respond(self, request: httpx2.Request) -> httpx2.Response:
        name = f"{request.method} {request.url.path}"
        self.requests[name] += 1
        body = await request.aread()
        self.bodies.append((name, request.headers, body))
        for fault in self.faults:
            response = fault(request)
            if response is not None:
                return response
        try:
            return await self._route(request, body)
        except OstError as error:
            return problem(error)

    async def _route(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        path = request.url.path
        if path.endswith("/v1/session"):
            return self._open_session(request, body)
        if request.headers.get("authorization", "") not in self.sessions:
            raise UnauthenticatedError("no session")
        if path == "/v1/allocations":
            return self._allocate(from_json(m.Allocate, json.loads(body)))
        if path == "/v1/chunks":
            return await self._push(request, body)
        if path.startswith("/v1/uploads/"):
            return self._status(BlobId.from_hex(path.rsplit("/", 1)[1]))
        if path == "/v1/references":
            return self._refer(from_json(m.AddReference, json.loads(body)))
        if path.startswith("/v1/locate/"):
            return answer(self.address)
        return self._read(request)

    def _open_session(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        node = BUCKET if request.url.host == "bucket.test" else INDEX
        now = self.now()
        login = open_login(
            decode_text(json.loads(body)["login"]),
            nodes=[node.principal],
            now=now,
            limits=TokenLimits(),
        )
        text = encode_text(login.cti + node.principal)
        self.sessions.add(f"OST {text}")
        return httpx2.Response(
            200, json={"session": text, "expires_at": int(now) + self.session_ttl_s}
        )

    def _allocate(self, request: m.Allocate) -> httpx2.Response:
        if request.size > self.limit:
            raise AllowanceExceededError(limit=self.limit, used=0, reserved=0, needed=request.size)
        upload = next(
            (u for u in self.uploads.values() if u.open and u.blob_id == request.blob_id), None
        )
        if upload is None:
            grant_id = GrantId(bytes(8) + len(self.uploads).to_bytes(8, "big"))
            upload = self.uploads[grant_id] = Upload(grant_id, request.blob_id, request.size)
        return answer(
            m.Allocation(
                grant=bytes(upload.grant_id),
                grant_id=upload.grant_id,
                expires_at=int(START) + 3600,
                bucket=self.address,
                chunk_bytes=self.chunk_bytes,
                already_yours=self.already_yours,
                allowance=m.Allowance(self.limit, 0, request.size),
            ),
            201,
        )

    async def _push(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        await trio.sleep(self.push_takes_s)
        self.in_flight -= 1
        upload = self.uploads[GrantId(decode_text(request.headers["ost-grant"]))]
        if upload.reference is not None:
            return answer(m.PushResult(0, upload.reference))
        if not upload.open:
            raise GrantClosedError(reason="revoked")
        assert int(request.headers["content-length"]) == len(body)
        upload.chunks[int(request.headers["ost-chunk-index"])] = body
        total = max(1, -(-upload.size // self.chunk_bytes))
        if len(upload.chunks) < total:
            return answer(m.PushResult(total - len(upload.chunks)), 202)
        data = b"".join(upload.chunks[i] for i in range(total))
        upload.open = False
        if blake3(data).digest() != upload.blob_id:
            raise HashMismatchError("not these bytes")
        self.blobs[upload.blob_id] = data
        upload.reference = self._reference(upload, accessors_of(request.headers))
        return answer(m.PushResult(0, upload.reference))

    def _status(self, blob_id: BlobId) -> httpx2.Response:
        for upload in self.uploads.values():
            if upload.open and upload.blob_id == blob_id and upload.chunks:
                bitmap = bytearray(-(-len(range(0, upload.size, self.chunk_bytes)) // 8))
                for index in upload.chunks:
                    bitmap[index // 8] |= 1 << index % 8
                return answer(
                    m.UploadInfo(
                        upload.grant_id, upload.size, self.chunk_bytes, bytes(bitmap), int(START)
                    )
                )
        raise NotFoundError

    def _refer(self, request: m.AddReference) -> httpx2.Response:
        upload = self.uploads[GrantId(request.grant)]
        if upload.blob_id not in self.blobs:
            raise NotFoundError
        upload.open = False
        return answer(m.PushResult(0, self._reference(upload, request.accessors)))

    def _reference(self, upload: Upload, accessors: tuple[Principal, ...]) -> m.BlobReference:
        return m.BlobReference(
            upload.blob_id, upload.size, BUCKET.principal, Uid(bytes(8)), accessors, b""
        )

    def _read(self, request: httpx2.Request) -> httpx2.Response:
        data = self.blobs.get(BlobId.from_hex(request.url.path.rsplit("/", 1)[1]))
        if data is None:
            raise NotFoundError
        headers = {
            "content-type": "image/png",
            "content-disposition": "attachment; filename*=UTF-8''a%20cat.png",
        }
        status, first, end = 200, 0, len(data)
        if "range" in request.headers:
            start, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
            status, first, end = 206, int(start), int(last) + 1 if last else len(data)
            headers["content-range"] = f"bytes {first}-{end - 1}/{len(data)}"
        headers["content-length"] = str(end - first)
        cut = self.cut_after.pop(0) if self.cut_after else None
        body = Pieces(data[first:end], self.piece_bytes, cut, self.takes_s)
        return httpx2.Response(status, headers=headers, stream=body)


class RealClockCluster(FakeCluster):
    """For clients that read the operating system's clock."""

    def now(self) -> float:
        return SystemClock().now()


class Pieces(httpx2.AsyncByteStream):
    """A body in small pieces, each after a while, that may break off after some bytes."""

    def __init__(
        self, data: bytes, piece_bytes: int, cut_after: int | None = None, takes_s: float = 0.0
    ) -> None:
        self._data = data
        self._piece_bytes = piece_bytes
        self._cut_after = cut_after
        self._takes_s = takes_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), self._piece_bytes):
            if self._cut_after is not None and start >= self._cut_after:
                raise httpx2.ReadError("cut")
            await trio.sleep(self._takes_s)
            yield self._data[start : start + self._piece_bytes]


class Stream:
    """A source that comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def answer(message: Message, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, json=to_json(message))


def problem(error: OstError, headers: dict[str, str] | None = None) -> httpx2.Response:
    """A refusal as RFC 9457 problem+json."""
    body = {
        "type": "about:blank",
        "title": error.code,
        "status": error.http_status,
        "code": error.code,
        "retryable": error.retryable,
        "detail": error.message,
    } | error.details
    return httpx2.Response(
        error.http_status,
        content=json.dumps(body),
        headers={"content-type": "application/problem+json"} | (headers or {}),
    )


def contents(directory: Path) -> dict[str, bytes]:
    """What lies in a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def accessors_of(headers: httpx2.Headers) -> tuple[Principal, ...]:
    texts = headers.get("ost-accessors", "")
    return tuple(Principal.parse(text) for text in texts.split(",") if text)


def fail_first(times: int, path: str, make: Callable[[], httpx2.Response]) -> Fault:
    """Answer the first requests to a path in the node's place; `make` may raise."""
    left = [times]

    def fault(request: httpx2.Request) -> httpx2.Response | None:
        if request.url.path != path or not left[0]:
            return None
        left[0] -= 1
        return make()

    return fault


def refused() -> httpx2.Response:
    raise httpx2.ConnectError("refused")


@asynccontextmanager
async def client_of(
    cluster: FakeCluster,
    options: ClientOptions | None = None,
    observer: Callable[[Attempt], None] = lambda _attempt: None,
    rng: FakeRng | None = None,
) -> AsyncIterator[Client]:
    """Alice's client of a fake cluster, in virtual time."""
    async with connect(
        INDEX_URL,
        ALICE,
        index=INDEX.principal,
        options=options or ClientOptions(),
        observer=observer,
        clock=FakeClock(),
        rng=rng or FakeRng(),
        worker=InlineWorker(),
        transport=cluster,
    ) as client:
        yield client
