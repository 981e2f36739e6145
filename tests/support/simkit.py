"""A little life in a simulated cluster: alice has an account, and uploads."""

from __future__ import annotations

import trio
from blake3 import blake3

from ostnode.identity.keys import KeyPair
from ostnode.ids import BlobId
from ostnode.roles.index.core.rows import BucketState
from ostnode.sim.world import World
from ostnode.wire import messages as m
from ostnode.wire.fields import Message, Request

ALICE = KeyPair.from_seed(b"alice".ljust(32, b"."))
LIMIT = 1 << 20


def blob_of(data: bytes) -> BlobId:
    return BlobId(blake3(data).digest())


async def ask(
    world: World, key: KeyPair, name: str, request: Request, body: bytes = b""
) -> Message:
    """One call over a link of its own."""
    async with world.link(key, name) as link:
        return (await link.call(request, body)).message


async def settle_in(world: World) -> None:
    """Register alice, once every bucket has reported itself."""
    with trio.fail_after(60):
        while not _all_active(world):  # noqa: ASYNC110  no event tells
            await trio.sleep(0.1)
    change = m.UserChange("register", ALICE.principal, LIMIT)
    await ask(world, world.app, "index", m.ChangeUsers((change,)))


def _all_active(world: World) -> bool:
    rows = world.index_tables().buckets.where(state=BucketState.ACTIVE)
    return len(rows) == len(world.buckets)


async def upload(world: World, data: bytes) -> str:
    """Store a blob of one chunk as alice's; the bucket's name."""
    allocation = await ask(world, ALICE, "index", m.Allocate(blob_of(data), len(data)))
    assert isinstance(allocation, m.Allocation)
    name = world.name_of(allocation.bucket.principal)
    push = m.PushChunk(allocation.grant, 0, (ALICE.principal,), b"x")
    result = await ask(world, ALICE, name, push, data)
    assert isinstance(result, m.PushResult)
    assert result.missing == 0
    return name


async def read(world: World, name: str, data: bytes) -> bytes:
    """The blob's bytes, read as its owner."""
    async with world.link(ALICE, name) as link:
        reply = await link.call(m.ReadBlob(ALICE.principal, blob_of(data), 0, len(data)))
    return bytes(reply.body)
