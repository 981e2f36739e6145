"""The kills of the chaos, and the reckoning after it."""

from __future__ import annotations

import signal
from contextlib import suppress

import trio

from ostnode.cli.demo.processes import NodeProcess
from ostnode.client import (
    Client,
)
from ostnode.errors import (
    NotFoundError,
)
from ostnode.ids import NULL_ACCESSOR, BlobId, Principal
from ostnode.wire import messages as m
from tests.support.chaosmodel import Account, State
from tests.support.chaosworld import World, start_all

REST_S = 3


async def kill_and_restart(world: World, kills: int, seconds: float) -> None:
    """SIGKILL one node, two or all, at any moment, also while they start."""
    nodes = list(world.cluster.nodes)
    deadline = trio.current_time() + seconds
    while world.kills < kills and trio.current_time() < deadline:
        await trio.sleep(world.random.uniform(1.0, 0.9 * seconds / kills))
        victims = world.random.sample(nodes, world.random.choices([1, 2, 3], [7, 2, 1])[0])
        if world.random.random() < 0.15:
            await _terminate(world, victims)
        else:
            await _kill(world, victims)
        await trio.sleep(world.random.uniform(0, 0.8))
        if world.random.random() < 0.25:  # again, while they start
            with trio.move_on_after(world.random.uniform(0.5, 3)):
                await start_all(victims)
            await _kill(world, victims)
        await start_all(victims)
        world.note(f"started {', '.join(node.name for node in victims)}")
    world.over = True


async def _kill(world: World, victims: list[NodeProcess]) -> None:
    for node in victims:
        if not node.running:
            raise world.violated(f"{node.name} ended by itself\n{node.log_tail()}")
        node.send_signal(signal.SIGKILL)
        world.kills += 1
        world.note(f"killed {node.name}")
    for node in victims:
        await node.wait()


async def _terminate(world: World, victims: list[NodeProcess]) -> None:
    """In order, though everybody is at work."""
    for node in victims:
        world.note(f"terminated {node.name}")
        code = await node.stop()
        if code != 0:
            raise world.violated(f"{node.name} ended with {code} on SIGTERM\n{node.log_tail()}")


# --- the reckoning --------------------------------------------------------------------------------


async def settle(world: World, app: Client, seconds: float) -> m.ClusterInfo:
    """Wait until feeds and outboxes are drained, sweeps done and abandoned grants ended.

    Nobody says when a bucket's sweeps and outbox are through: when nothing moves for REST_S.
    """
    info = await app.cluster_status()
    rested = 0
    with trio.move_on_after(seconds):
        while rested < REST_S * 4:
            await trio.sleep(0.25)
            before, info = info, await app.cluster_status()
            rested = rested + 1 if _at_rest(info) and _moved(before) == _moved(info) else 0
        return info
    raise world.violated(f"no rest within {seconds} s: {info}")


def _moved(info: m.ClusterInfo) -> tuple[int, ...]:
    acked = (bucket.outbox_acked for bucket in info.buckets)
    return (info.feed_seq, info.charges, info.bytes_used, *acked)


def _at_rest(info: m.ClusterInfo) -> bool:
    return (
        info.open_grants == info.bytes_reserved == 0
        and all(bucket.feed_acked == info.feed_seq for bucket in info.buckets)
        and all(bucket.state == "active" for bucket in info.buckets)
    )


async def resolve_burns(world: World, app: Client) -> None:
    """Whether chats are deleted whose deletion was never answered: the index knows."""
    blob_id = world.contents[0].blob_id
    for chat in world.model.burning - world.model.burned:
        try:
            await app.locate(chat, blob_id, token=world.read_token(chat, app.principal))
        except NotFoundError:
            world.model.burned.add(chat)
        else:
            world.model.burning.discard(chat)


async def check_reading(world: World, reader: Client, buckets: list[m.BucketAddress]) -> None:
    """Every (chat, blob) that was ever meant: the right bytes, or the one refusal."""
    model = world.model
    pairs = {(ref.accessor, ref.content) for ref in model.refs if ref.accessor != NULL_ACCESSOR}
    for accessor, content in sorted(pairs, key=lambda pair: (pair[0], pair[1].blob_id)):
        token = world.read_token(accessor, reader.principal)
        expected = model.readable(accessor, content.blob_id)
        try:
            data = await reader.read(accessor, content.blob_id, token=token)
        except NotFoundError as error:
            if expected is State.THERE:
                what = f"{accessor.hex()[:6]}/{content.blob_id} was acknowledged: not found"
                raise world.violated(what) from error
        else:
            if expected is State.GONE or data != content.data:
                raise world.violated(
                    f"{accessor.hex()[:6]}/{content.blob_id} was deleted: readable"
                )
        if expected is State.GONE:
            await _check_nowhere(world, reader, buckets, accessor, content.blob_id, token)


async def _check_nowhere(
    world: World,
    reader: Client,
    buckets: list[m.BucketAddress],
    accessor: Principal,
    blob_id: BlobId,
    token: bytes,
) -> None:
    for bucket in buckets:
        with suppress(NotFoundError):
            await reader.blob_info(accessor, blob_id, token=token, bucket=bucket)
            raise world.violated(f"{accessor.hex()[:6]}/{blob_id} is readable at {bucket.http}")


async def holdings(
    world: World, account: Account, client: Client, buckets: list[m.BucketAddress]
) -> dict[BlobId, m.BucketAddress]:
    """The blobs an account holds, by the word of the buckets, which the model must allow."""
    held = {}
    for content in world.contents:
        least, most = world.model.held(account, content.blob_id)
        found = 0
        for bucket in buckets:
            with suppress(NotFoundError):
                info = await client.blob_info(client.principal, content.blob_id, bucket=bucket)
                found += info.own_references
                if content.blob_id in held:
                    raise world.violated(f"{content.blob_id} is in two buckets")
                held[content.blob_id] = bucket
        if not least <= found <= most:
            what = f"{account.name} has {found} references to {content.blob_id}"
            raise world.violated(f"{what}, not {least} to {most}")
    return held
