"""What an idle link costs its node: memory and CPU of a process that holds many, over TLS.

One process serves, another dials and holds, as many as descriptors allow. Memory is the growth of
the server's resident set, by the link; the reference is bare TLS connections on which nobody says
anything. CPU is the server's over a time in which every link is pinged once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair, verify
from ostnode.net.link import DEFAULT_LIMITS, open_link
from ostnode.net.serve import serve_link
from ostnode.net.tls import TlsNetwork, TlsStream
from ostnode.net.transport import Handler, TcpNetwork, secured
from ostnode.wire.calls import Kind

SERVER, CLIENT = KeyPair(b"s" * 32), KeyPair(b"c" * 32)
NUMBERS = (1000, 5000)
DIALLERS = 8
"""At a time: handshakes take turns on the two sides."""
SPARE_DESCRIPTORS = 100
WATCHED_S = DEFAULT_LIMITS.ping_interval_s
"""Every link is pinged once in this time."""


class Nobody:
    """Is asked nothing."""

    async def handle(self, _caller, _request, _body=b""):
        raise AssertionError


async def linked(stream: trio.abc.Stream) -> None:
    """A link's accepter."""
    await serve_link(
        stream,
        signer=SERVER,
        verify=verify,
        services={Kind.BUCKET: Nobody()},
        kinds_of=lambda _: frozenset(),
        rng=SystemRng(),
    )


async def bare(stream: trio.abc.Stream) -> None:
    """A bare connection's."""
    assert isinstance(stream, TlsStream)
    await secured(stream)
    await stream.receive_some(1)


async def serve(handler: Handler, limit: int) -> None:
    """Serve; print where."""
    # Standard output is for the address; nobody reads on.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    network = TlsNetwork(SERVER, TcpNetwork(connections_max=limit))
    async with trio.open_nursery() as nursery:
        print(await nursery.start(network.serve, "127.0.0.1:0", handler), flush=True)


async def hold_link(address: str, held: Callable[[], None]) -> None:
    """Keep a link."""
    async with open_link(
        TlsNetwork(),
        address,
        signer=CLIENT,
        verify=verify,
        expect=SERVER.principal,
        rng=SystemRng(),
    ) as link:
        held()
        await link.wait_closed()
        raise AssertionError("the link ended")


async def hold_bare(address: str, held: Callable[[], None]) -> None:
    """Keep a bare connection."""
    stream = await TlsNetwork().connect(address)
    await secured(stream, SERVER.principal)
    held()
    await trio.sleep_forever()


async def dial(hold: Callable[..., Awaitable[None]], address: str, number: int) -> None:
    """Hold so many, print when they stand, until standard input ends."""
    async with trio.open_nursery() as nursery:
        turns = trio.Semaphore(DIALLERS)
        for _ in range(number):
            await turns.acquire()
            nursery.start_soon(hold, address, turns.release)
        for _ in range(DIALLERS):
            await turns.acquire()
        print("held", flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        nursery.cancel_scope.cancel()


def resident_kib(pid: int) -> int:
    """The process's memory."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


def cpu_s(pid: int) -> float:
    """User and system time that the process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def program(*arguments: str) -> subprocess.Popen[str]:
    """This program in another process."""
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def measure(kind: str, number: int, watched_s: float) -> dict[str, float]:
    """Of `number` links or bare connections."""
    with program("--serve", kind, "--number", str(number)) as server:
        try:
            address = line_of(server)
            before, started = resident_kib(server.pid), time.perf_counter()
            with program("--dial", kind, "--number", str(number), "--address", address) as dialler:
                try:
                    assert line_of(dialler) == "held"
                    opened_s = time.perf_counter() - started
                    cpu = cpu_s(server.pid)
                    time.sleep(watched_s)
                    cpu = cpu_s(server.pid) - cpu
                    grown = resident_kib(server.pid) - before
                finally:
                    dialler.kill()
        finally:
            server.kill()
    return {
        "opened_per_s": number / opened_s,
        "kib_each": grown / number,
        "cpu_us_each_per_s": cpu / watched_s / number * 1e6,
    }


KINDS = {"link": (linked, hold_link), "bare": (bare, hold_bare)}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--dial", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, KINDS[arguments.serve][0], arguments.number)
        return 0
    if arguments.dial:
        trio.run(dial, KINDS[arguments.dial][1], arguments.address, arguments.number)
        return 0
    figures: dict[str, float] = {}
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_DESCRIPTORS
    reference = measure("bare", min(NUMBERS[0], room), 1)
    for number in (min(number, room) for number in NUMBERS):
        ours = measure("link", number, WATCHED_S)
        figures |= {f"{name}_{number}": value for name, value in ours.items()}
        figures[f"kib_ratio_{number}"] = ours["kib_each"] / reference["kib_each"]
        if not arguments.json:
            print(
                f"{number} links: {ours['kib_each']:.0f} KiB each"
                f"  (bare TLS {reference['kib_each']:.0f} KiB,"
                f" ratio {figures[f'kib_ratio_{number}']:.2f}),"
                f" {ours['cpu_us_each_per_s']:.1f} us of CPU a second each,"
                f" opened {ours['opened_per_s']:.0f} a second"
            )
    if arguments.json:
        print(json.dumps(figures | {"kib_each_reference": reference["kib_each"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
