"""Peer calls against plain Trio streams, one server and one client process, medians of rounds.

- small: upload_status, 1 and 32 in flight, against a bare echo with the same frames and CBOR: the
  same header maps encoded and decoded by cbor2 (faster than ours), but no session, window,
  schema or handlers. Beside it two more: an echo that parses nothing but lengths, and one whose
  client sends as many requests at once as answers came, the least that Trio can do;
- bodies: 1 MiB pushed and read, 8 in flight, against `send_all` on one side and `recv_into` one
  preallocated buffer on the other, with a 64-byte acknowledgement or request each.

Ratios are of time; `cpu` is processor time of both processes, which others on the machine
disturb less.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import cbor2
import trio
from support.rounds import Figures, arguments_parser, print_json, served

from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import BlobId, GrantId, Principal
from ostnode.net.link import Link, open_link
from ostnode.net.serve import serve_link
from ostnode.net.transport import TcpNetwork
from ostnode.wire import messages as m
from ostnode.wire.calls import Kind, Reply
from ostnode.wire.frames import PREFIX, pack_frame

ROUNDS = 5
MIB = 1 << 20
NOTE = bytes(64)
SERVER, CLIENT = KeyPair(b"s" * 32), KeyPair(b"c" * 32)
STATUS = m.UploadStatus(BlobId(bytes(32)))
PUSH = m.PushChunk(bytes(200), 0)
READ = m.ReadBlob(Principal(bytes(32)), BlobId(bytes(32)), 0, MIB)
INFO = m.BlobInfo(MIB, "", None, 0, 0)
UPLOAD = m.UploadInfo(GrantId(bytes(16)), MIB, MIB, b"\x01", 0)
FRAME = pack_frame(bytes(80))
REPLY = 5
REQUEST = {"t": 4, "call": 14, "ms": 600_000, "m": {"blob_id": bytes(32)}}
RESULT = {
    "grant_id": bytes(16),
    "size": MIB,
    "chunk_bytes": MIB,
    "received": b"\x01",
    "expires_at": 0,
}
BODY = bytes(MIB)
SMALL_CALLS, LONE_CALLS, BODIES, IN_FLIGHT = 4000, 1000, 256, 8
GOALS = {"small_calls": 0.5, "push_mib": 0.75, "read_mib": 0.75}


class Bucket:
    """Answers at once; reads come from memory."""

    async def handle(self, _caller, request, _body=b""):
        if isinstance(request, m.UploadStatus):
            return Reply(UPLOAD)
        if isinstance(request, m.ReadBlob):
            return Reply(INFO, BODY)
        return Reply(m.PushResult(0))


async def receive_exactly(stream: trio.SocketStream, view: memoryview) -> bool:
    """Fill `view`; False at the end of the stream."""
    filled = 0
    while filled < len(view):
        count = await stream.socket.recv_into(view[filled:])
        if count == 0:
            return False
        filled += count
    return True


async def plain(stream: trio.SocketStream) -> None:
    """The references' server: the first byte says which."""
    kind = await stream.receive_some(1)
    large, note = memoryview(bytearray(MIB)), memoryview(bytearray(len(NOTE)))
    if kind == b"p":
        while await receive_exactly(stream, large):
            await stream.send_all(NOTE)
    elif kind == b"r":
        while await receive_exactly(stream, note):
            await stream.send_all(BODY)
    elif kind == b"t":
        while await receive_exactly(stream, note):
            await stream.send_all(struct.pack(">d", time.process_time()))
    else:
        answer = answered if kind == b"c" else pack_frame
        async for headers in frame_runs(stream):
            await stream.send_all(b"".join([answer(header) for header in headers]))


def answered(header: bytes) -> bytes:
    """The frame that answers a request."""
    request = cbor2.loads(header)
    return pack_frame(cbor2.dumps({"t": REPLY, "id": request["id"], "m": RESULT}))


async def frame_runs(stream: trio.SocketStream):
    """The headers of whole frames, as many at a time as arrive together."""
    buffer = b""
    while data := await stream.receive_some():
        buffer += data
        end = 0
        headers = []
        while len(buffer) - end >= PREFIX.size:
            size, _ = PREFIX.unpack_from(buffer, end)
            if len(buffer) - end < PREFIX.size + size:
                break
            headers.append(buffer[end + PREFIX.size : end + PREFIX.size + size])
            end += PREFIX.size + size
        if headers:
            yield headers
        buffer = buffer[end:]


async def serve() -> None:
    """Serve both; print where."""
    network = TcpNetwork()
    link = partial(
        serve_link,
        signer=SERVER,
        verify=verify,
        services={Kind.BUCKET: Bucket()},
        kinds_of=lambda _: frozenset(),
        rng=SystemRng(),
    )
    async with trio.open_nursery() as nursery:
        ours = await nursery.start(network.serve, "127.0.0.1:0", link)
        theirs = await nursery.start(network.serve, "127.0.0.1:0", plain)
        print(ours, theirs, flush=True)


async def calls(link: Link, request: m.Request, body: bytes, count: int, tasks: int) -> None:
    """Make `count` calls from `tasks` tasks."""

    async def task() -> None:
        for _ in range(count // tasks):
            await link.call(request, body)

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(task)


async def exchange(
    kind: bytes, there: bytes, back: int, address: str, count: int, in_flight: int
) -> None:
    """Send `count` messages there, each answered by `back` bytes, `in_flight` at once."""
    stream = await TcpNetwork().connect(address)
    window = trio.Semaphore(in_flight)

    async def send() -> None:
        for _ in range(count):
            await window.acquire()
            await stream.send_all(there)

    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(kind)
        view = memoryview(bytearray(back))
        nursery.start_soon(send)
        for _ in range(count):
            await receive_exactly(stream, view)
            window.release()


def asked(number: int) -> bytes:
    """The frame of a request."""
    return pack_frame(cbor2.dumps({**REQUEST, "id": number}))


async def echo(address: str, count: int, in_flight: int) -> None:
    """Send `count` requests in CBOR, a frame at a time, and decode their answers."""
    stream = await TcpNetwork().connect(address)
    window = trio.Semaphore(in_flight)

    async def send() -> None:
        for number in range(count):
            await window.acquire()
            await stream.send_all(asked(number))

    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(b"c")
        nursery.start_soon(send)
        left = count
        async for headers in frame_runs(stream):
            for header in headers:
                assert cbor2.loads(header)["t"] == REPLY
                window.release()
            left -= len(headers)
            if not left:
                break


async def echo_together(address: str, count: int, in_flight: int) -> None:
    """Send as many requests at once as answers came."""
    stream = await TcpNetwork().connect(address)
    async with stream:
        await stream.send_all(b"c" + b"".join(map(asked, range(in_flight))))
        sent, left = in_flight, count
        async for headers in frame_runs(stream):
            for header in headers:
                assert cbor2.loads(header)["t"] == REPLY
            left -= len(headers)
            if not left:
                break
            more = min(len(headers), count - sent)
            if more:
                await stream.send_all(b"".join(map(asked, range(sent, sent + more))))
                sent += more


Work = Callable[[int, int], Awaitable[None]]


class Measurement(NamedTuple):
    """How often something is done, so many at once, by us and by each reference."""

    name: str
    count: int
    in_flight: int
    ours: Work
    references: dict[str, Work]


def measurements(link: Link, address: str) -> list[Measurement]:
    """The first reference of each is the one that its goal speaks of."""
    small = partial(calls, link, STATUS, b"")
    echoes: dict[str, Work] = {
        "echo": partial(echo, address),
        "lengths": partial(exchange, b"e", FRAME, len(FRAME), address),
        "together": partial(echo_together, address),
    }
    pushes = {"pump": partial(exchange, b"p", BODY, len(NOTE), address)}
    reads = {"pump": partial(exchange, b"r", NOTE, MIB, address)}
    return [
        Measurement("lone_calls", LONE_CALLS, 1, small, echoes),
        Measurement("small_calls", SMALL_CALLS, 32, small, echoes),
        Measurement("push_mib", BODIES, IN_FLIGHT, partial(calls, link, PUSH, BODY), pushes),
        Measurement("read_mib", BODIES, IN_FLIGHT, partial(calls, link, READ, b""), reads),
    ]


async def measure(ours: str, theirs: str) -> dict[str, float]:
    """Medians of interleaved rounds: per second, and microseconds of processors each."""
    figures = Figures()
    clock = await TcpNetwork().connect(theirs)
    await clock.send_all(b"t")

    async def spent() -> float:
        await clock.send_all(NOTE)
        (there,) = struct.unpack(">d", await clock.receive_some(8))
        return time.process_time() + there

    async def run(name: str, count: int, in_flight: int, work: Work) -> None:
        before, start = await spent(), time.perf_counter()
        await work(count, in_flight)
        seconds = time.perf_counter() - start
        figures.note(f"{name}_per_s", count / seconds)
        figures.note(f"{name}_cpu_us", (await spent() - before) / count * 1e6)

    async with (
        clock,
        open_link(
            TcpNetwork(),
            ours,
            signer=CLIENT,
            verify=verify,
            expect=SERVER.principal,
            rng=SystemRng(),
        ) as link,
    ):
        for _ in range(ROUNDS):
            for name, count, in_flight, mine, references in measurements(link, theirs):
                for reference, work in references.items():
                    await run(f"{name}_{reference}", count, in_flight, work)
                await run(name, count, in_flight, mine)
    return figures.medians()


def report(figures: dict[str, float]) -> None:
    """A line for each reference: rate and processor time, ours and its, and the ratios."""
    for name in ("lone_calls", "small_calls", "push_mib", "read_mib"):
        goal = f"  (goal >= {GOALS[name]:.2f})" if name in GOALS else ""
        for reference in ("echo", "lengths", "together", "pump"):
            theirs = f"{name}_{reference}"
            if f"{theirs}_per_s" not in figures:
                continue
            rate, its_rate = figures[f"{name}_per_s"], figures[f"{theirs}_per_s"]
            cpu, its_cpu = figures[f"{name}_cpu_us"], figures[f"{theirs}_cpu_us"]
            print(
                f"{name:11} {rate:7.0f}/s {cpu:5.0f} us  {reference:8} {its_rate:7.0f}/s"
                f" {its_cpu:5.0f} us  ratio {rate / its_rate:.2f}  cpu {its_cpu / cpu:.2f}{goal}"
            )
            goal = ""


def main() -> int:
    """Measure, and print beside the goals."""
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
    report(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
