"""Peer calls over TLS against bare trio.SSLStream, one server and one client process.

- bodies: 1 MiB pushed and read, 8 in flight, against `send_all` on one side and `receive_some` on
  the other, whatever it gives thrown away, with a 64-byte acknowledgement or request each;
- handshakes: a link dialled, proven both ways and closed, against a TLS handshake alone on a
  connection of its own. Both include the connection; the certificate is the same.
"""

from __future__ import annotations

import argparse
import logging
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
import trio
from support.rounds import Figures, arguments_parser, print_json, served

from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import BlobId, Principal
from ostnode.net.link import Link, open_link
from ostnode.net.serve import serve_link
from ostnode.net.tls import Identity, TlsNetwork
from ostnode.net.transport import TcpNetwork
from ostnode.wire import messages as m
from ostnode.wire.calls import Kind, Reply

ROUNDS = 7
MIB = 1 << 20
NOTE = bytes(64)
SERVER, CLIENT = KeyPair(b"s" * 32), KeyPair(b"c" * 32)
PUSH = m.PushChunk(bytes(200), 0)
READ = m.ReadBlob(Principal(bytes(32)), BlobId(bytes(32)), 0, MIB)
INFO = m.BlobInfo(MIB, "", None, 0, 0)
BODY = bytes(MIB)
BODIES, IN_FLIGHT, HANDSHAKES = 128, 8, 100
GOAL = 0.8


class Bucket:
    """Answers at once; reads come from memory."""

    async def handle(self, _caller, request, _body=b""):
        if isinstance(request, m.ReadBlob):
            return Reply(INFO, BODY)
        return Reply(m.PushResult(0))


async def take(stream: trio.SSLStream, size: int) -> bool:
    """Receive `size` bytes and forget them; False at the end of the stream."""
    while size:
        data = await stream.receive_some(size)
        if not data:
            return False
        size -= len(data)
    return True


async def bare(context: ssl.SSLContext, stream: trio.SocketStream) -> None:
    """The references' server: the first byte says which."""
    encrypted = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    kind = await encrypted.receive_some(1)
    if kind == b"p":
        while await take(encrypted, MIB):
            await encrypted.send_all(NOTE)
    elif kind == b"r":
        while await take(encrypted, len(NOTE)):
            await encrypted.send_all(BODY)


async def serve() -> None:
    """Serve both; print where."""
    # Standard output is for the addresses; nobody reads on.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    link = partial(
        serve_link,
        signer=SERVER,
        verify=verify,
        services={Kind.BUCKET: Bucket()},
        kinds_of=lambda _: frozenset(),
        rng=SystemRng(),
    )
    reference = partial(bare, Identity.of(SERVER).context)
    async with trio.open_nursery() as nursery:
        ours = await nursery.start(TlsNetwork(SERVER).serve, "127.0.0.1:0", link)
        theirs = await nursery.start(TcpNetwork().serve, "127.0.0.1:0", reference)
        print(ours, theirs, flush=True)


async def calls(link: Link, request: m.Request, body: bytes) -> float:
    """Seconds for BODIES calls, IN_FLIGHT at once."""

    async def task() -> None:
        for _ in range(BODIES // IN_FLIGHT):
            await link.call(request, body)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(task)
    return time.perf_counter() - start


def client_context() -> ssl.SSLContext:
    """As a dialler's: TLS 1.3, no chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


async def pump(kind: bytes, there: bytes, back: int, address: str) -> float:
    """Seconds for BODIES messages there, each answered by `back` bytes, IN_FLIGHT at once."""
    tcp = await TcpNetwork().connect(address)
    window = trio.Semaphore(IN_FLIGHT)
    async with trio.SSLStream(tcp, client_context(), https_compatible=True) as stream:
        await stream.send_all(kind)

        async def send() -> None:
            for _ in range(BODIES):
                await window.acquire()
                await stream.send_all(there)

        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(BODIES):
                await take(stream, back)
                window.release()
        return time.perf_counter() - start


def dial(address: str):
    """A link to our server."""
    return open_link(
        TlsNetwork(),
        address,
        signer=CLIENT,
        verify=verify,
        expect=SERVER.principal,
        rng=SystemRng(),
    )


async def links(address: str) -> float:
    """Seconds for HANDSHAKES links, one after another."""
    start = time.perf_counter()
    for _ in range(HANDSHAKES):
        async with dial(address):
            pass
    return time.perf_counter() - start


async def handshakes(address: str) -> float:
    """Seconds for HANDSHAKES of TLS alone; a byte there makes sure that both sides are done."""
    context = client_context()
    start = time.perf_counter()
    for _ in range(HANDSHAKES):
        tcp = await TcpNetwork().connect(address)
        stream = trio.SSLStream(tcp, context, https_compatible=True)
        await stream.send_all(b"x")
        await stream.receive_some(1)
        await stream.aclose()
    return time.perf_counter() - start


Measurement = tuple[str, int, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]


async def measure(ours: str, theirs: str) -> dict[str, float]:
    """Medians of interleaved rounds, and of their ratios."""
    figures = Figures()
    async with dial(ours) as link:
        measurements: list[Measurement] = [
            (
                "push_mib",
                BODIES,
                partial(calls, link, PUSH, BODY),
                partial(pump, b"p", BODY, len(NOTE), theirs),
            ),
            (
                "read_mib",
                BODIES,
                partial(calls, link, READ, b""),
                partial(pump, b"r", NOTE, MIB, theirs),
            ),
            ("handshakes", HANDSHAKES, partial(links, ours), partial(handshakes, theirs)),
        ]
        for _ in range(ROUNDS):
            for name, count, mine, reference in measurements:
                bare_rate, rate = count / await reference(), count / await mine()
                figures.note(f"{name}_per_s", rate)
                figures.note(f"{name}_reference", bare_rate)
                figures.note(f"{name}_ratio", rate / bare_rate)
    medians = figures.medians()
    medians["link_ms"] = 1000 / medians["handshakes_per_s"]
    medians["tls_ms"] = 1000 / medians["handshakes_reference"]
    return medians


def main() -> int:
    """Measure, print, and say what the goals are."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve)
        return 0
    with served(__file__, "--serve") as (ours, theirs):
        figures = trio.run(measure, ours, theirs)
    if arguments.json:
        print_json(figures)
        return 0
    for name in ("push_mib", "read_mib", "handshakes"):
        goal = "" if name == "handshakes" else f"(goal >= {GOAL:.2f})"
        print(
            f"{name:10} {figures[f'{name}_per_s']:8.0f}/s"
            f"  bare {figures[f'{name}_reference']:8.0f}/s"
            f"  ratio {figures[f'{name}_ratio']:.2f}  {goal}"
        )
    print(f"one link {figures['link_ms']:.2f} ms, one TLS handshake {figures['tls_ms']:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
