"""Two ends of the peer protocol for tests: keys, sans-IO pairs, and links in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from typing_extensions import override

from ostnode.env import Rng
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import BlobId, Principal
from ostnode.net.link import Link, open_link
from ostnode.net.memory import MemoryNetwork
from ostnode.net.serve import serve_link
from ostnode.net.session import LinkLimits
from ostnode.net.transport import Handler, Network
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind, Reply, Service
from ostnode.wire.connection import Connection, Outgoing
from ostnode.wire.fields import Request
from ostnode.wire.frames import BODY_BYTES_MAX
from ostnode.wire.handshake import Handshake
from ostnode.wire.incoming import NEED_DATA, Event, Proven
from ostnode.wire.session import FEATURES, PROTOCOL_MAX, PROTOCOL_MIN, Hello, Side
from ostnode.wire.states import State

ALICE = KeyPair.from_seed(b"a" * 32)
BUCKET = KeyPair.from_seed(b"b" * 32)
MALLORY = KeyPair.from_seed(b"m" * 32)
BLOB = BlobId(b"B" * 32)
GROUP = Principal(b"G" * 32)
ADDRESS = "bucket:7111"

LIMITS = LinkLimits()

READ = m.ReadBlob(GROUP, BLOB, 0, 1024)
PUSH = m.PushChunk(b"grant", 0)
INFO = m.BlobInfo(5, "text/plain", None, 7, 0)


class SeededRng(Rng):
    """The same randomness every time."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    @override
    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)

    @override
    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def hello(key: KeyPair, **changes) -> Hello:
    values = {
        "protocol_min": PROTOCOL_MIN,
        "protocol_max": PROTOCOL_MAX,
        "principal": key.principal,
        "nonce": key.seed,
        "window_requests": 4,
        "window_bytes": BODY_BYTES_MAX,
        "features": FEATURES,
        **changes,
    }
    return Hello(**values)


def dialler(key: KeyPair = ALICE, *, expect: KeyPair = BUCKET, binding=b"", **changes):
    return Connection(
        Side.DIALLER,
        Handshake(
            Side.DIALLER,
            hello(key, **changes),
            sign=key.sign,
            verify=verify,
            expect=expect.principal,
            binding=binding,
        ),
    )


def accepter(key: KeyPair = BUCKET, *, binding=b"", **changes):
    return Connection(
        Side.ACCEPTER,
        Handshake(
            Side.ACCEPTER, hello(key, **changes), sign=key.sign, verify=verify, binding=binding
        ),
    )


def wire(outgoing: Outgoing) -> bytes:
    """An outgoing frame as one piece."""
    return outgoing[0] + bytes(outgoing[1])


def feed(connection: Connection, data: bytes, cuts=(), *, end=False, react=None) -> list[Event]:
    """Every event of `data`, received in pieces that end at `cuts` and wherever a buffer does.

    `react` is told each event before the next is taken.
    """
    events: list[Event] = []
    start = 0
    for cut in [*sorted(cuts), len(data)]:
        while start < cut:
            buffer = connection.buffer()
            piece = data[start : min(cut, start + len(buffer))]
            buffer[: len(piece)] = piece
            connection.received(len(piece))
            start += len(piece)
            events += drain(connection, react)
    if end:
        connection.received(0)
        events += drain(connection, react)
    return events


def drain(connection: Connection, react=None) -> list[Event]:
    """Events until more bytes are needed or the connection is over."""
    events: list[Event] = []
    while connection.state is not State.CLOSED:
        event = connection.next_event()
        if event is NEED_DATA:
            break
        events.append(event)
        if react is not None:
            react(event)
    return events


def open_pair(**accepter_hello) -> tuple[Connection, Connection]:
    """Both ends of an authenticated connection."""
    ours, theirs = dialler(), accepter(**accepter_hello)
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    assert feed(theirs, wire(ours.send_proof())) == [Proven(ALICE.principal)]
    assert feed(ours, wire(theirs.send_proof())) == [Proven(BUCKET.principal)]
    return ours, theirs


Answer = Callable[[Caller, Request, bytes], Awaitable[Reply]]


@dataclass
class FakeService(Service):
    """Answers as it is told and remembers what it was asked."""

    answer: Answer
    asked: list[tuple[Caller, Request, bytes]] = field(default_factory=list)

    @override
    async def handle(self, caller, request, body=b""):
        self.asked.append((caller, request, bytes(body)))
        return await self.answer(caller, request, body)


async def echo(caller: Caller, request: Request, body: bytes) -> Reply:
    """Answers a read with as many bytes as it asks for, a push with what is missing: its size."""
    await trio.lowlevel.checkpoint()
    if isinstance(request, m.ReadBlob):
        return Reply(INFO, bytes(request.length))
    return Reply(m.PushResult(len(body)))


def answering(*outcomes: Reply | Exception) -> Answer:
    """Answers with each outcome in turn, and from then on with the last."""
    left = list(outcomes)

    async def answer(caller: Caller, request: Request, body: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return answer


def nobody_special(principal: Principal) -> frozenset[Kind]:
    return frozenset()


@dataclass
class Cluster:
    """One bucket served in memory."""

    network: Network
    service: FakeService
    nursery: trio.Nursery
    stopping: trio.Event
    address: str = ADDRESS
    handler: Handler | None = None

    def link(self, key=ALICE, *, expect=BUCKET, limits=LIMITS):
        return open_link(
            self.network,
            self.address,
            signer=key,
            verify=verify,
            expect=expect.principal,
            rng=SeededRng(),
            limits=limits,
        )


@asynccontextmanager
async def served(
    answer: Answer = echo,
    *,
    network: Network | None = None,
    address: str = ADDRESS,
    limits: LinkLimits = LIMITS,
    kinds_of=nobody_special,
    services=None,
    intake=None,
    outlet=None,
) -> AsyncIterator[Cluster]:
    """A bucket that answers with `answer` at `address`, until the block ends."""
    network = network or MemoryNetwork()
    service = FakeService(answer)
    stopping = trio.Event()
    rng = SeededRng(1)

    async def handler(stream: trio.abc.Stream) -> None:
        await serve_link(
            stream,
            signer=BUCKET,
            verify=verify,
            services={Kind.BUCKET: service} if services is None else services,
            kinds_of=kinds_of,
            rng=rng,
            limits=limits,
            intake=intake,
            outlet=outlet,
            stopping=stopping,
        )

    async with trio.open_nursery() as nursery:
        bound = await nursery.start(network.serve, address, handler)
        yield Cluster(network, service, nursery, stopping, bound, handler)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(answer: Answer = echo, **options) -> AsyncIterator[tuple[Link, Cluster]]:
    """A served bucket and alice's link to it."""
    async with served(answer, **options) as cluster, cluster.link() as link:
        yield link, cluster
