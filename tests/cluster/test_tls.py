"""A whole cluster whose links are encrypted, on memory as the others."""

from __future__ import annotations

import pytest
import trio

from ostnode.identity.keys import KeyPair
from ostnode.net.tls import TlsNetwork
from ostnode.net.transport import LinkClosedError, receive_into, secured
from tests.support.cluster import Cluster, Shape, insist
from tests.support.people import Chat, Person

pytestmark = pytest.mark.parametrize("shape", [Shape(peer_tls=True)])
DATA = bytes(range(251)) * 60


async def test_what_was_uploaded_is_read_charged_and_refunded_over_tls(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    made = await alice.upload(DATA, general)
    assert await insist(lambda: bob.read(general, made)) == DATA
    await cluster.node(made.bucket).kill()
    await cluster.node(made.bucket).start()
    await cluster.settle()
    assert await insist(lambda: bob.read(general, made)) == DATA
    await alice.remove(made, general)
    await cluster.settle()
    assert await alice.account() == (0, 0)
    await cluster.check_accounts()


async def test_b48_buckets_tell_nothing_to_another_node_at_the_index_s_address(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    mallory = KeyPair.generate(cluster.rng)
    said, hung_up = [], []

    async def listen(stream: trio.abc.Stream) -> None:
        await secured(stream)
        try:
            said.append(await receive_into(stream, memoryview(bytearray(1))))
        except LinkClosedError:
            hung_up.append(stream)

    made = await alice.upload(DATA, general)
    address = cluster.index.address
    await cluster.index.kill()
    async with trio.open_nursery() as nursery:
        await nursery.start(TlsNetwork(mallory, cluster.network).serve, address, listen)
        await alice.remove(made, general)
        await trio.sleep(60)
        assert len(hung_up) > len(cluster.buckets)
        assert said == []
        assert all(bucket.role.checks()["index"] for bucket in cluster.buckets)
        nursery.cancel_scope.cancel()
    await cluster.index.start()
    await cluster.settle()
    assert await alice.account() == (0, 0)
