"""Peer calls against plain Trio streams, one server and one client process, medians of rounds.

- small: an 80-byte call, 1 and 32 in flight, against an echo of the same frames that parses
  nothing but lengths;
- bodies: 1 MiB pushed and read, 8 in flight, against `send_all` on one side and `recv_into` one
  preallocated buffer on the other, with a 64-byte acknowledgement or request each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

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
BODY = bytes(MIB)
SMALL_CALLS, LONE_CALLS, BODIES, IN_FLIGHT = 4000, 1000, 256, 8
GOAL = 0.5


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
    else:
        async for frames in frame_runs(stream):
            await stream.send_all(frames)


async def frame_runs(stream: trio.SocketStream):
    """Whole frames, as many at a time as arrive together."""
    buffer = b""
    while data := await stream.receive_some():
        buffer += data
        end = 0
        while len(buffer) - end >= PREFIX.size:
            header, body = PREFIX.unpack_from(buffer, end)
            if len(buffer) - end < PREFIX.size + header + body:
                break
            end += PREFIX.size + header + body
        if end:
            yield buffer[:end]
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


async def calls(link: Link, request: m.Request, body: bytes, count: int, tasks: int) -> float:
    """Seconds for `count` calls from `tasks` tasks."""

    async def task() -> None:
        for _ in range(count // tasks):
            await link.call(request, body)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(task)
    return time.perf_counter() - start


async def exchange(
    kind: bytes, there: bytes, back: int, count: int, in_flight: int, address: str
) -> float:
    """Seconds for `count` messages there, each answered by `back` bytes, `in_flight` at once."""
    stream = await TcpNetwork().connect(address)
    window = trio.Semaphore(in_flight)

    async def send() -> None:
        for _ in range(count):
            await window.acquire()
            await stream.send_all(there)

    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(kind)
        view = memoryview(bytearray(back))
        start = time.perf_counter()
        nursery.start_soon(send)
        for _ in range(count):
            await receive_exactly(stream, view)
            window.release()
        end = time.perf_counter()
    return end - start


Measurement = tuple[str, int, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]


async def measure(ours: str, theirs: str) -> dict[str, float]:
    """Medians of interleaved rounds."""
    figures: dict[str, list[float]] = {}
    async with open_link(
        TcpNetwork(), ours, signer=CLIENT, verify=verify, expect=SERVER.principal, rng=SystemRng()
    ) as link:
        call = partial(calls, link)
        echo = partial(exchange, b"e", FRAME, len(FRAME))
        measurements: list[Measurement] = [
            (
                "lone_calls_per_s",
                LONE_CALLS,
                partial(call, STATUS, b"", LONE_CALLS, 1),
                partial(echo, LONE_CALLS, 1, theirs),
            ),
            (
                "small_calls_per_s",
                SMALL_CALLS,
                partial(call, STATUS, b"", SMALL_CALLS, 32),
                partial(echo, SMALL_CALLS, 32, theirs),
            ),
            (
                "push_mib_per_s",
                BODIES,
                partial(call, PUSH, BODY, BODIES, IN_FLIGHT),
                partial(exchange, b"p", BODY, len(NOTE), BODIES, IN_FLIGHT, theirs),
            ),
            (
                "read_mib_per_s",
                BODIES,
                partial(call, READ, b"", BODIES, IN_FLIGHT),
                partial(exchange, b"r", NOTE, MIB, BODIES, IN_FLIGHT, theirs),
            ),
        ]
        for _ in range(ROUNDS):
            for name, count, mine, reference in measurements:
                figures.setdefault(f"{name}_reference", []).append(count / await reference())
                figures.setdefault(name, []).append(count / await mine())
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, *_ in measurements:
        medians[f"{name}_ratio"] = medians[name] / medians[f"{name}_reference"]
    return medians


def main() -> int:
    """Measure, print, and say whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve)
        return 0
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ours, theirs = server.stdout.readline().split()
            figures = trio.run(measure, ours, theirs)
        finally:
            server.kill()
    if arguments.json:
        print(json.dumps(figures))
        return 0
    for name in ("lone_calls_per_s", "small_calls_per_s", "push_mib_per_s", "read_mib_per_s"):
        goal = f"(goal >= {GOAL:.2f})" if "mib" in name else ""
        print(
            f"{name:18} {figures[name]:8.0f}  plain {figures[f'{name}_reference']:8.0f}"
            f"  ratio {figures[f'{name}_ratio']:.2f}  {goal}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
