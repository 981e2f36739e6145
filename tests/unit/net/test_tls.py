"""TLS between peers, over real sockets on loopback: who is refused, and when."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import UnauthenticatedError
from ostnode.identity.keys import KeyPair
from ostnode.net.tls import Identity, TlsNetwork, certified, in_slices
from ostnode.wire import messages as m
from tests.support.wire_peers import ALICE, BLOB, BUCKET, GROUP, MALLORY, PUSH, READ, served

ANY_PORT = "127.0.0.1:0"
READ_MIB = m.ReadBlob(GROUP, BLOB, 0, 1 << 20)


def tls_bucket(answer=None, **options):
    """The bucket of `served`, at a port of its own behind TLS."""
    more = {} if answer is None else {"answer": answer}
    return served(network=TlsNetwork(BUCKET), address=ANY_PORT, **more, **options)


async def test_calls_and_bodies_over_tls():
    async with tls_bucket() as cluster, cluster.link() as link:
        body = bytes(range(256)) * 4096
        results = []

        async def push(length):
            reply = await link.call(PUSH, body[:length])
            results.append(reply.message.missing == length)

        with trio.fail_after(10):
            async with trio.open_nursery() as calls:
                for length in range(0, len(body), len(body) // 20):
                    calls.start_soon(push, length)
        assert results == [True] * len(results)
        assert len((await link.call(READ_MIB)).body) == 1 << 20
        assert {received for _, _, received in cluster.service.asked[:-1]} == {
            body[:length] for length in range(0, len(body), len(body) // 20)
        }


def test_a_certificate_is_its_principal_and_always_the_same():
    identity = Identity.of(ALICE)
    assert certified(identity.certificate) == ALICE.principal
    assert Identity.of(KeyPair(ALICE.seed)).certificate == identity.certificate
    assert Identity.of(BUCKET).certificate != identity.certificate


async def test_b48_another_key_s_certificate_is_refused_before_a_byte_is_sent():
    async with tls_bucket() as cluster:
        with pytest.raises(UnauthenticatedError, match="not the peer"):
            async with cluster.link(expect=MALLORY):
                pytest.fail("the link opened")
        async with cluster.link() as link:
            await link.call(READ)


@pytest.mark.parametrize("sizes", [[], [0], [1], [100, 200], [100, 16384], [40_000, 7, 1 << 20, 3]])
def test_pieces_are_sent_whole_in_slices_and_large_ones_as_they_are(sizes):
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    slices = list(in_slices(pieces))
    assert b"".join(slices) == b"".join(pieces)
    assert all(0 < len(piece) <= 256 * 1024 for piece in slices)
    copied = sum(len(piece) for piece in slices if isinstance(piece, bytes))
    assert copied <= 16384 * len(pieces)
