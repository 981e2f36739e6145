"""People between two peers, and raw ends of the protocol over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from ostnode.identity.keys import KeyPair
from ostnode.net.link import open_link
from ostnode.net.session import LinkLimits
from ostnode.net.tls import TlsNetwork, TlsStream
from ostnode.net.transport import Network, TcpNetwork
from ostnode.wire.connection import Connection
from ostnode.wire.incoming import Event, Greeted
from tests.support.wire_peers import ALICE, BUCKET, SeededRng, dialler, feed, verify, wire

ANY_PORT = "127.0.0.1:0"
HASTY = LinkLimits(handshake_s=0.2)
PATIENT = LinkLimits(handshake_s=5)
Change = Callable[[bytes], bytes]


class Relay:
    """Passes on what it hears, and keeps it. With a key it speaks TLS itself on both sides."""

    def __init__(self, address: str, key: KeyPair | None = None, change: Change = bytes) -> None:
        self._address = address
        self._change = change
        self.network: Network = TcpNetwork() if key is None else TlsNetwork(key)
        self.heard: list[bytes] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        there = await self.network.connect(self._address)
        async with there, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, stream, there, self.heard)
            await self._pass(there, stream, [])
            nursery.cancel_scope.cancel()

    async def _pass(
        self, source: trio.abc.Stream, sink: trio.abc.Stream, heard: list[bytes]
    ) -> None:
        try:
            while data := await source.receive_some():
                heard.append(bytes(data))
                await sink.send_all(self._change(bytes(data)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@asynccontextmanager
async def relayed(
    address: str, key: KeyPair | None = None, change: Change = bytes
) -> AsyncIterator[tuple[str, Relay]]:
    """A relay to `address`, and where it listens."""
    relay = Relay(address, key, change)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(relay.network.serve, ANY_PORT, relay.serve), relay
        nursery.cancel_scope.cancel()


class RawPeer:
    """One end by hand: pins nothing, waits for nothing, says what it is told."""

    def __init__(self, stream: trio.abc.Stream, connection: Connection) -> None:
        self.stream = stream
        self.connection = connection

    @property
    def below(self) -> trio.SocketStream:
        """The socket under the encryption."""
        assert isinstance(self.stream, TlsStream)
        below = self.stream._below
        assert isinstance(below, trio.SocketStream)
        return below

    async def next_events(self) -> list[Event]:
        events: list[Event] = []
        while not events:
            data = await self.stream.receive_some()
            events = feed(self.connection, data, end=not data)
        return events

    async def greet(self) -> None:
        """Cross the hellos."""
        await self.stream.send_all(wire(self.connection.send_hello()))
        (event,) = await self.next_events()
        assert isinstance(event, Greeted)

    async def accept(self) -> None:
        """The handshake as accepter."""
        await self.next_events()
        await self.stream.send_all(wire(self.connection.send_hello()))
        await self.next_events()
        await self.stream.send_all(wire(self.connection.send_proof()))

    async def open(self) -> None:
        """The whole handshake as dialler."""
        await self.greet()
        await self.stream.send_all(wire(self.connection.send_proof()))
        await self.next_events()


@asynccontextmanager
async def raw_peer(
    address: str, key: KeyPair = ALICE, *, expect: KeyPair = BUCKET
) -> AsyncIterator[RawPeer]:
    """A raw dialler on a channel that stands, whoever is at its other end."""
    stream = await TlsNetwork().connect(address)
    try:
        binding = await stream.secure(None)
        yield RawPeer(stream, dialler(key, expect=expect, binding=binding))
    finally:
        await trio.aclose_forcefully(stream)


def dial(address, *, expect=BUCKET, network=None, limits=PATIENT):
    """Alice's link to whoever is there; a machine may be slow where the peer ends it anyway."""
    return open_link(
        network or TlsNetwork(),
        address,
        signer=ALICE,
        verify=verify,
        expect=expect.principal,
        rng=SeededRng(),
        limits=limits,
    )
