"""Who stands between two peers, comes with another's proofs, or only takes up room."""

from __future__ import annotations

import contextlib
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from ostnode.errors import UnauthenticatedError
from ostnode.net.memory import MemoryNetwork
from ostnode.net.session import LinkLimits
from ostnode.net.tls import TlsNetwork, TlsStream
from ostnode.net.transport import LinkClosedError, TcpNetwork, receive_into, secured
from ostnode.wire.incoming import GoawayReceived, Proven
from ostnode.wire.states import State
from tests.support.tlskit import ANY_PORT, HASTY, dial, raw_peer, relayed
from tests.support.wire_peers import (
    ALICE,
    BUCKET,
    MALLORY,
    READ,
    accepter,
    dialler,
    feed,
    served,
    wire,
)


def tls_bucket(**options):
    """The bucket of `served`, at a port of its own behind TLS."""
    network = TlsNetwork(BUCKET, TcpNetwork(connections_max=options.pop("connections_max", 256)))
    return served(network=network, address=ANY_PORT, **options)


def refusal(events):
    """The code of the goodbye that these events are."""
    (event,) = events
    assert isinstance(event, GoawayReceived)
    assert event.final
    return event.error.code


# --- between two peers --------------------------------------------------------------------------


async def test_a_relay_with_its_own_certificate_gets_nothing_from_the_dialler():
    async with tls_bucket() as cluster, relayed(cluster.address, MALLORY) as (address, relay):
        cluster.address = address
        with pytest.raises(UnauthenticatedError, match="not the peer"):
            async with cluster.link():
                pytest.fail("the link opened")
        assert relay.heard == []


async def test_a_relay_is_refused_by_the_accepter_though_the_dialler_looks_at_nothing():
    async with tls_bucket() as cluster, relayed(cluster.address, MALLORY) as (address, relay):
        async with raw_peer(address) as careless:
            await careless.greet()
            await careless.stream.send_all(wire(careless.connection.send_proof()))
            assert refusal(await careless.next_events()) == "unauthenticated"
        assert relay.heard
        async with raw_peer(cluster.address) as direct:
            await direct.open()
        assert cluster.service.asked == []


async def test_a_relay_of_the_bytes_alone_learns_nothing_and_is_no_matter():
    async with tls_bucket() as cluster, relayed(cluster.address) as (address, relay):
        cluster.address = address
        async with cluster.link() as link:
            await link.call(READ)
        assert ALICE.principal not in b"".join(relay.heard)


@pytest.mark.parametrize("at", [20, 600])
async def test_b47_a_relay_that_changes_a_byte_ends_the_link(at):
    passed = 0

    def change(data: bytes) -> bytes:
        nonlocal passed
        changed = bytearray(data)
        if passed <= at < passed + len(data):
            changed[at - passed] ^= 1
        passed += len(data)
        return bytes(changed)

    async with tls_bucket(limits=HASTY) as cluster:
        async with relayed(cluster.address, change=change) as (address, _):
            honest, cluster.address = cluster.address, address
            with pytest.raises((LinkClosedError, UnauthenticatedError)):  # noqa: PT012
                async with cluster.link(limits=HASTY) as link:
                    for _ in range(10):
                        await link.call(READ)
        cluster.address = honest
        async with cluster.link() as link:
            await link.call(READ)


# --- another's proofs ---------------------------------------------------------------------------


async def test_a_proof_is_good_once_on_one_channel():
    async with tls_bucket() as cluster:
        async with raw_peer(cluster.address) as alice:
            hello = wire(alice.connection.send_hello())
            await alice.stream.send_all(hello)
            await alice.next_events()
            proof = wire(alice.connection.send_proof())
            await alice.stream.send_all(proof)
            assert await alice.next_events() == [Proven(BUCKET.principal)]
        async with raw_peer(cluster.address) as mallory:
            await mallory.stream.send_all(hello)
            mallory.connection.send_hello()
            await mallory.next_events()
            await mallory.stream.send_all(proof)
            assert refusal(await mallory.next_events()) == "unauthenticated"
        assert cluster.service.asked == []


async def test_a_proof_made_for_one_accepter_is_no_good_at_another(nursery):
    """Alice dials mallory, whom she knows; mallory uses the bucket's nonce and her proof there."""
    outcomes = []
    async with tls_bucket() as cluster:
        bucket = cluster.address

        async def splice(stream):
            binding = await secured(stream)
            async with raw_peer(bucket) as there:
                hello = await stream.receive_some()
                there.connection.send_hello()
                await there.stream.send_all(hello)
                (greeted,) = await there.next_events()
                here = accepter(MALLORY, binding=binding, nonce=greeted.hello.nonce)
                feed(here, hello)
                await stream.send_all(wire(here.send_hello()))
                proof = await stream.receive_some()
                assert feed(here, proof) == [Proven(ALICE.principal)]
                await there.stream.send_all(proof)
                outcomes.append(refusal(await there.next_events()))

        cluster.address = await nursery.start(TlsNetwork(MALLORY).serve, ANY_PORT, splice)
        with pytest.raises(LinkClosedError):
            async with cluster.link(expect=MALLORY):
                pytest.fail("the link opened")
        assert outcomes == ["unauthenticated"]
        assert cluster.service.asked == []


class Impostor:
    """Says that it is alice, signs as mallory."""

    principal, seed = ALICE.principal, ALICE.seed
    sign = MALLORY.sign


async def test_a_rejected_dialler_that_believes_it_is_connected_gets_no_answer_and_finds_out():
    async with tls_bucket() as cluster, raw_peer(cluster.address, Impostor) as peer:
        await peer.greet()
        proof = wire(peer.connection.send_proof())
        peer.connection.state = State.OPEN  # as if WELCOME was sure to come
        _, request = peer.connection.send_request(READ, 5000)
        await peer.stream.send_all(proof + wire(request))
        with trio.fail_after(5):
            assert refusal(await peer.next_events()) == "unauthenticated"
            with pytest.raises(LinkClosedError):
                await receive_into(peer.stream, memoryview(bytearray(1)))
        assert cluster.service.asked == []


# --- taking up room -----------------------------------------------------------------------------


async def silent(stream):
    await trio.sleep_forever()


async def dribbling(stream):
    """A ClientHello, a byte at a time: progress, but no handshake."""
    for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.01)


async def encrypted_and_silent(stream):
    await TlsStream(stream).secure(None)
    await trio.sleep_forever()


async def encrypted_and_dribbling(stream):
    """The handshake of TLS, then HELLO a byte at a time."""
    encrypted = TlsStream(stream)
    hello = wire(dialler(binding=await encrypted.secure(None)).send_hello())
    for byte in hello:
        await encrypted.send_all(bytes([byte]))
        await trio.sleep(0.01)


async def until_served(cluster):
    """Try again until there is room for one more honest link."""
    with trio.fail_after(5):
        while True:
            with contextlib.suppress(LinkClosedError):
                async with cluster.link() as link:
                    await link.call(READ)
                    return


@pytest.mark.parametrize(
    "manner", [silent, dribbling, encrypted_and_silent, encrypted_and_dribbling]
)
async def test_b50_a_handshake_ends_in_time_counted_from_the_accepted_connection(manner):
    async with tls_bucket(limits=HASTY, connections_max=1) as cluster:

        async def come():
            stream = await TcpNetwork().connect(cluster.address)
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await manner(stream)

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await trio.testing.wait_all_tasks_blocked()
            await until_served(cluster)
            nursery.cancel_scope.cancel()
        assert HASTY.handshake_s <= trio.current_time() - started < HASTY.handshake_s + 1


async def test_dialling_ends_in_time_whoever_accepts(nursery):
    for manner in (silent, partial(answering_with, b"\x16\x03\x03\x00\x7a")):
        address = await nursery.start(TcpNetwork().serve, ANY_PORT, manner)
        started = trio.current_time()
        with pytest.raises(LinkClosedError, match="does not finish the handshake"):
            async with dial(address, limits=HASTY):
                pytest.fail("the link opened")
        assert HASTY.handshake_s <= trio.current_time() - started < HASTY.handshake_s + 1


async def answering_with(data, stream):
    await stream.send_all(data)
    await trio.sleep_forever()


async def test_dialling_ends_in_time_when_nothing_answers_at_all(autojump_clock):
    class BlackHole(MemoryNetwork):
        async def connect(self, address):
            await trio.sleep_forever()

    with pytest.raises(LinkClosedError, match="does not finish the handshake"):
        async with dial("bucket:1", network=BlackHole(), limits=LinkLimits()):
            pytest.fail("the link opened")
    assert trio.current_time() == pytest.approx(LinkLimits().handshake_s)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_b50_a_flood_of_connections_is_held_to_the_cap_and_passes():
    async with tls_bucket(limits=HASTY, connections_max=8) as cluster, AsyncExitStack() as crowd:
        before = descriptors()
        for _ in range(50):
            await crowd.enter_async_context(await TcpNetwork().connect(cluster.address))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert descriptors() - before <= 50 + 8
        await until_served(cluster)
